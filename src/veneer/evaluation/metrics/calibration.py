"""Calibration: whether answers that are given with 80 % confidence are right in 80 % of cases.

The expected calibration error (ECE) is the mean gap between confidence and share of right answers over bins that hold
equally many rows. Gaps are absolute values, so that chance alone makes them positive, the more so in few rows:
a perfectly calibrated model of 400 rows shows about 0.06. So the interval holds the errors under which the plain error
would be neither too large nor too small (test inversion, by simulation): how much chance adds depends on how the error
is spread over the bins, and each end takes the spread that is furthest out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veneer.evaluation.statistics.measures import Floats
from veneer.evaluation.statistics.resampling import RESAMPLES

BINS = 10
HALVINGS = 16
"""Bisections of an end, which is then exact to 0.00002."""
LEAST_ROWS = 20
"""Rows that a bin has at least."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows of about the same confidence."""

    confidence: float
    """The mean confidence."""
    right: float
    """The share of right answers."""
    rows: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration error of one model."""

    ece: float
    """The expected calibration error, 0 to 1, without what chance adds if all bins have the same gap."""
    low: float
    high: float
    """Ends of the 95 % interval."""
    plain: float
    """The error as it is usually given, with what chance adds."""
    interval: str
    """The name of the interval."""
    bins: list[CalibrationBin]


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """The calibration error of answers.

    Args:
        confidences: the probability that the model gives to each answer.
        right: whether each answer is right.
    """
    confidence, hit = np.array(confidences, dtype=float), np.array(right, dtype=float)
    rows = len(confidence)
    bins = np.array_split(np.argsort(confidence, kind="stable"), max(1, min(BINS, rows // LEAST_ROWS)))
    shares = np.array([len(members) / rows for members in bins])
    gaps = np.array([float((confidence[m] - hit[m]).mean()) for m in bins])
    errors = np.array([_error(confidence[m], hit[m]) for m in bins])
    plain = float(shares @ np.abs(gaps))
    noise = errors * np.random.default_rng(0).normal(size=(RESAMPLES, len(bins)))
    alike = np.ones(len(bins))
    # All of the error in the bin with the largest gap: the other bins then show what chance alone adds.
    single = np.zeros(len(bins))
    single[int(np.abs(gaps).argmax())] = 1 / shares[int(np.abs(gaps).argmax())]

    def error_with(pattern: Floats, share: float) -> float:
        """The error, spread by a pattern, of which so large a share of simulated plain errors lies below the found."""
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            simulated = np.abs(middle * pattern + noise) @ shares
            low, high = (middle, high) if float((simulated <= plain).mean()) >= share else (low, middle)
        return low

    return Calibration(
        ece=error_with(alike, 0.5),
        low=error_with(single, 0.975),
        high=error_with(alike, 0.025),
        plain=plain,
        interval="simulated test, inverted",
        bins=[CalibrationBin(float(confidence[m].mean()), float(hit[m].mean()), len(m)) for m in bins],
    )


def _error(confidence: Floats, hit: Floats) -> float:
    """The standard error of a bin's gap. Where all answers are right (or wrong) the rows do not show how far they
    spread, so that it is at least that of a share with half a right and half a wrong answer more (Jeffreys)."""
    rows = len(hit)
    share = (float(hit.sum()) + 0.5) / (rows + 1)
    spread = float((confidence - hit).std()) ** 2 / max(1, rows - 1)
    return math.sqrt(max(spread, share * (1 - share) / rows))
