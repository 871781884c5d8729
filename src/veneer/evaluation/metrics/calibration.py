"""Calibration: whether answers with a confidence of 80 % are right in 80 % of cases.

The expected calibration error (ECE) is the mean gap between confidence and share of right answers, over bins with about
equally many rows. Gaps are absolute values, so chance alone makes them positive, and more so with few rows: a perfectly
calibrated model shows about 0.06 on 400 rows. The interval therefore contains those errors for which the plain error
would be neither too large nor too small (test inversion, by simulation). How much chance adds depends on how the error
is spread over the bins, and each end uses the spread that is furthest out. The answers of a bin are simulated with the
share of right answers that the supposed error leaves, not with the observed one: a confident model is wrong so seldom
that a sample's own spread says nothing (with one bin and full confidence, the interval is Clopper and Pearson's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veneer.evaluation.statistics.measures import Floats

BINS = 10
HALVINGS = 14
"""The number of bisections for an end, which is then exact to 0.0001."""
SIMULATIONS = 1000
"""The number of simulated plain errors for every step of a bisection."""
ROUNDING = 1e-12
"""The distance up to which two plain errors count as equal."""
LEAST_ROWS = 20
"""The least number of rows in a bin."""


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
    """The expected calibration error, 0 to 1, without the part that chance adds if all bins have the same gap."""
    low: float
    high: float
    """Ends of the 95 % interval."""
    plain: float
    """The error as it is usually given, including what chance adds."""
    interval: str
    """The name of the interval."""
    bins: list[CalibrationBin]


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """The calibration error of answers; it does not depend on the order of the rows.

    Args:
        confidences: the probability that the model gives to each answer.
        right: whether each answer is right.
    """
    confidence, hit = np.array(confidences, dtype=float), np.array(right, dtype=float)
    bins = _bins(confidence, hit)
    found = _Binned(
        np.array([len(members) for members in bins]),
        np.array([float(confidence[m].mean()) for m in bins]).clip(0.0, 1.0),
        np.array([float(hit[m].sum()) for m in bins]),
    )
    low, ece, high = found.interval() if math.isfinite(found.plain) else (math.nan,) * 3
    return Calibration(
        ece=ece,
        low=low,
        high=high,
        plain=found.plain,
        interval="simulated test, inverted",
        bins=[CalibrationBin(float(confidence[m].mean()), float(hit[m].mean()), len(m)) for m in bins],
    )


def _bins(confidence: Floats, hit: Floats) -> list[NDArray[np.int64]]:
    """The row indices of each bin, by confidence. Rows with equal confidence share a bin. Otherwise the order of the
    file would decide which bin they are in, and a file that is sorted by label would separate right from wrong."""
    rows = len(confidence)
    least = rows // max(1, min(BINS, rows // LEAST_ROWS))
    borders, start = [], 0
    for end in np.cumsum(np.unique(confidence, return_counts=True)[1]).tolist():
        if end - start >= least and rows - end >= least:
            borders.append(end)
            start = end
    return np.split(np.lexsort((hit, confidence)), borders)


@dataclass(frozen=True, slots=True, eq=False)
class _Binned:
    """Bins of rows, and the errors that could have produced them."""

    rows: NDArray[np.int64]
    confidence: Floats
    """The mean confidence of each bin."""
    hits: Floats
    """The number of right answers in each bin."""

    @property
    def shares(self) -> Floats:
        """The share of all rows in each bin."""
        return np.asarray(self.rows / self.rows.sum())

    @property
    def plain(self) -> float:
        """The plain error."""
        return float(self.plain_of(self.hits))

    def plain_of(self, hits: Floats) -> Floats:
        """The plain errors for these numbers of right answers, [..., bins]."""
        return np.asarray(np.abs(self.confidence - hits / self.rows) @ self.shares)

    def interval(self) -> tuple[float, float, float]:
        """The lower end, the error without the part that chance adds, and the upper end."""
        nothing = np.zeros(len(self.rows))
        # An error below the median of what chance alone makes is not evidence of a smaller error. Without this floor, a
        # plain error that happens to be tiny would leave no possible error at all.
        floor = max(self.plain, float(np.median(self.simulated(nothing))))
        # Chance adds most to a single gap, unless the bins are so certain that it adds nothing to the other gaps.
        spreads = self.alike, self.single
        lows = [self.error_with(one, lambda errors: _below(errors, self.plain), 0.975) for one in spreads]
        # Equal errors count half in the middle. Chance only adds: apart from rounding, no error exceeds the plain one.
        ece = self.error_with(
            self.alike, lambda errors: (_below(errors, self.plain) + _up_to(errors, self.plain)) / 2, 0.5
        )
        return min(lows), min(ece, self.plain), self.error_with(self.alike, lambda errors: _up_to(errors, floor), 0.025)

    def error_with(self, spread: Callable[[float], Floats], below: Callable[[Floats], float], share: float) -> float:
        """The largest error, spread over the bins in one way, for which this share of the simulated plain errors lies
        below the observed one; 0 if there is no such error."""
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = below(self.simulated(spread(middle))) >= share
            low, high = (middle, high) if enough else (low, middle)
        return float(self.shares @ spread(low))

    def simulated(self, gaps: Floats) -> Floats:
        """Simulated plain errors for bins with these gaps. A gap is on the side with more room, and so with the larger
        spread: answers are right less often than the confidence says, unless the confidence is below a half."""
        towards = np.where(self.confidence >= 0.5, -1.0, 1.0)
        right = (self.confidence + towards * gaps).clip(0.0, 1.0)
        drawn = np.random.default_rng(0).binomial(self.rows, right, size=(SIMULATIONS, len(right))).astype(float)
        return self.plain_of(drawn)

    @property
    def _room(self) -> Floats:
        """The largest possible gap of each bin."""
        return np.maximum(self.confidence, 1 - self.confidence)

    def alike(self, level: float) -> Floats:
        """Gaps that are equal in all bins, as far as there is room: chance then adds least. Level 0 means no error,
        level 1 the largest possible one."""
        return np.minimum(level, self._room)

    def single(self, level: float) -> Floats:
        """Gaps that are as large as possible in the bins with the largest observed gaps, one bin after the other. The
        other bins then show only what chance adds. Levels are as for `alike`."""
        order = np.argsort(-np.abs(self.confidence - self.hits / self.rows), kind="stable")
        most = (self.shares * self._room)[order]
        taken = np.clip(level * most.sum() - (np.cumsum(most) - most), 0.0, most)
        gaps = np.empty(len(order))
        gaps[order] = taken
        return gaps / self.shares


def _below(errors: Floats, found: float) -> float:
    """The share of errors that are smaller than the observed one."""
    return float((errors < found - ROUNDING).mean())


def _up_to(errors: Floats, found: float) -> float:
    """The share of errors that are at most the observed one."""
    return float((errors <= found + ROUNDING).mean())
