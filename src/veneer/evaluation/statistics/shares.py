"""Intervals and a test for shares: Wilson's for one, Tango's and McNemar's for two on the same rows.

All are functions of counts and accept arrays of them, so that ten thousand simulated evaluations are one call.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from veneer.evaluation.statistics.measures import Floats
from veneer.evaluation.statistics.student import Z95

HALVINGS = 60
"""The number of bisections for an end of Tango's interval: more than a float64 has digits."""


def wilson(right: ArrayLike, rows: ArrayLike, z: float = Z95) -> tuple[Floats, Floats]:
    """The score interval of a share (Wilson, 1927). Its width is never 0, even if all rows are right.

    Args:
        right: the number of rows that are right (a sum of values between 0 and 1 gives a wider interval than needed).
        rows: the number of rows.
        z: the half width of the interval in standard deviations; 1.96 for 95 %.

    Returns:
        The lower and the upper ends.
    """
    n = np.asarray(rows, dtype=float)
    share = np.asarray(right, dtype=float) / n
    spread = z * np.sqrt(np.maximum(share * (1 - share), 0.0) / n + z**2 / (4 * n**2))
    centre, scale = share + z**2 / (2 * n), 1 + z**2 / n
    # If all rows are equal, the share is an end itself, and rounding would leave it outside.
    return np.clip((centre - spread) / scale, 0.0, share), np.clip((centre + spread) / scale, share, 1.0)


def tango(gained: ArrayLike, lost: ArrayLike, rows: ArrayLike, z: float = Z95) -> tuple[Floats, Floats]:
    """The score interval of the difference of two shares on the same rows (Tango, Statistics in Medicine 17, 1998).

    It contains the differences that a score test does not reject. Its ends are found by bisection, since the statistic
    of the test decreases in the difference.

    Args:
        gained: the number of rows that are right with the second model only.
        lost: the number of rows that are right with the first model only.
        rows: the number of all rows.
        z: the half width of the interval in standard deviations.

    Returns:
        The lower and the upper ends of (share of the second) − (share of the first).
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(one, dtype=float) for one in (gained, lost, rows)))
    found = (b - c) / n
    ends = []
    for inner, outer, sign in ((found, -np.ones_like(found), 1.0), (found, np.ones_like(found), -1.0)):
        near, far = inner, outer
        for _ in range(HALVINGS):
            middle = (near + far) / 2
            kept = sign * _score(b, c, n, middle) <= z
            near, far = np.where(kept, middle, near), np.where(kept, far, middle)
        ends.append(near)
    return ends[0], ends[1]


def _score(b: Floats, c: Floats, n: Floats, difference: Floats) -> Floats:
    """Tango's statistic: the standard deviations between the observed and a supposed difference."""
    # The likeliest probability that only the first model is right, given the supposed difference.
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    alone = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * np.maximum(alone, 0.0) + difference * (1 - difference))
    gap = b - c - n * difference
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(gap) < 1e-12 * n, 0.0, gap / np.sqrt(np.maximum(variance, 0.0)))


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p value of no difference, from the rows on which two models differ (exact McNemar test)."""
    discordant, fewer = gained + lost, min(gained, lost)
    if gained == lost:
        return 1.0
    logs = [
        math.lgamma(discordant + 1) - math.lgamma(i + 1) - math.lgamma(discordant - i + 1) - discordant * math.log(2)
        for i in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(math.exp(one) for one in logs))
