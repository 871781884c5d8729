"""Student's t distribution for any number of degrees of freedom, and the normal distribution's quantiles."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
Z95 = NORMAL.inv_cdf(0.975)
"""Half the width of a 95 % interval of the normal distribution, in standard deviations."""
PIECES = 500
"""The number of pieces of the numerical integral."""
REACH = 12.0
"""The end of the integral, in (approximate) standard deviations: less than e⁻⁷² lies beyond it. With many degrees of
freedom, one piece of a longer integral would contain all of the density."""


def probability(t: float, freedom: float) -> float:
    """The probability of a value up to `t`.

    With t = √ν · tan φ, the density becomes a power of cos φ, which is smooth and has a bounded range (Abramowitz &
    Stegun, 26.7.3 and 26.7.4 are its integrals); Simpson's rule sums it.

    Args:
        t: the upper end of the range.
        freedom: degrees of freedom ν, at least 1.
    """
    angle = min(math.atan2(abs(t), math.sqrt(freedom)), REACH / math.sqrt(freedom))
    heights = np.cos(np.linspace(0.0, angle, PIECES + 1)) ** (freedom - 1.0)
    weights = np.ones(PIECES + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    integral = float(heights @ weights) * angle / PIECES / 3.0
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    tail = min(0.5, scale * integral)
    return 0.5 + math.copysign(tail, t)


def quantile(share: float, freedom: float) -> float:
    """The value below which a share of the distribution lies, by bisection.

    Args:
        share: the share, from 0.5 to just below 1.
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while probability(high, freedom) < share:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle, freedom) < share else (low, middle)
    return high
