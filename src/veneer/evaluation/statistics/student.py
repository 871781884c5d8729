"""Student's t distribution for any number of degrees of freedom, and the normal distribution's quantiles."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
Z95 = NORMAL.inv_cdf(0.975)
"""Half the width of a 95 % interval of a normal distribution, in standard deviations."""
PIECES = 500
"""Pieces of the numerical integral."""
REACH = 12.0
"""Standard deviations, about, at which the integral ends: beyond them lies less than e⁻⁷². With many degrees of freedom
all of the density would lie within one piece of a longer one."""


def probability(t: float, freedom: float) -> float:
    """The probability of a value up to `t`.

    With t = √ν · tan φ, the density becomes a power of cos φ, which is smooth and has a bounded range (Abramowitz &
    Stegun, 26.7.3 and 26.7.4 are its integrals); Simpson's rule adds it up.

    Args:
        t: the value.
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
    """The value that a share of the distribution lies below, by bisection.

    Args:
        share: from 0.5 up to, and without, 1.
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while probability(high, freedom) < share:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle, freedom) < share else (low, middle)
    return high
