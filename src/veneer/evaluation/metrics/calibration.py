"""Calibration: whether answers that are given with 80 % confidence are right in 80 % of cases.

The expected calibration error (ECE) is the mean gap between confidence and share of right answers over bins that hold
about equally many rows. Gaps are absolute values, so that chance alone makes them positive, the more so in few rows:
a perfectly calibrated model of 400 rows shows about 0.06. So the interval holds the errors under which the plain error
would be neither too large nor too small (test inversion, by simulation): how much chance adds depends on how the error
is spread over the bins, and each end takes the spread that is furthest out. The answers of a bin are simulated by the
share of right ones that the supposed error leaves, not by those that were found: a confident model is wrong so seldom
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
"""Bisections of an end, which is then exact to 0.0001."""
SIMULATIONS = 1000
"""Simulated plain errors behind every step of a bisection."""
ROUNDING = 1e-12
"""The distance up to which two plain errors are equal."""
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
    """The calibration error of answers. The order of the rows makes no difference.

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
    """The places of each bin's rows, by confidence. Rows with one confidence share a bin: which of them went to which
    would be for the order of the file to say, and a file that is sorted by its labels would part right from wrong."""
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
    """Bins of rows, and what errors they may have come of."""

    rows: NDArray[np.int64]
    confidence: Floats
    """The mean confidence of each."""
    hits: Floats
    """The number of right answers in each."""

    @property
    def shares(self) -> Floats:
        """The share of the rows that each bin has."""
        return np.asarray(self.rows / self.rows.sum())

    @property
    def plain(self) -> float:
        """The plain error."""
        return float(self.plain_of(self.hits))

    def plain_of(self, hits: Floats) -> Floats:
        """The plain errors of so many right answers, [..., bins]."""
        return np.asarray(np.abs(self.confidence - hits / self.rows) @ self.shares)

    def interval(self) -> tuple[float, float, float]:
        """The lower end, the error without what chance adds, and the upper end."""
        nothing = np.zeros(len(self.rows))
        # Less than chance alone makes in the median is no sign of less than no error: without this floor a plain error
        # that happens to be tiny would leave no error at all.
        floor = max(self.plain, float(np.median(self.simulated(nothing))))
        # Chance adds most to a single gap, unless the bins are so sure that it adds nothing beside the gaps.
        spreads = self.alike, self.single
        lows = [self.error_with(one, lambda errors: _below(errors, self.plain), 0.975) for one in spreads]
        # Equal errors count half in the middle. Chance only adds: rounding apart, no error is above the plain one.
        ece = self.error_with(
            self.alike, lambda errors: (_below(errors, self.plain) + _up_to(errors, self.plain)) / 2, 0.5
        )
        return min(lows), min(ece, self.plain), self.error_with(self.alike, lambda errors: _up_to(errors, floor), 0.025)

    def error_with(self, spread: Callable[[float], Floats], below: Callable[[Floats], float], share: float) -> float:
        """The largest error, spread over the bins in one way, of which so large a share of simulated plain errors lies
        below the found one; 0 where there is none."""
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = below(self.simulated(spread(middle))) >= share
            low, high = (middle, high) if enough else (low, middle)
        return float(self.shares @ spread(low))

    def simulated(self, gaps: Floats) -> Floats:
        """Plain errors where the bins have so large gaps, on the side that has more room and so the larger spread: the
        answers are less often right than the confidence says, unless that is below a half."""
        towards = np.where(self.confidence >= 0.5, -1.0, 1.0)
        right = (self.confidence + towards * gaps).clip(0.0, 1.0)
        drawn = np.random.default_rng(0).binomial(self.rows, right, size=(SIMULATIONS, len(right))).astype(float)
        return self.plain_of(drawn)

    @property
    def _room(self) -> Floats:
        """The largest gap of each bin."""
        return np.maximum(self.confidence, 1 - self.confidence)

    def alike(self, level: float) -> Floats:
        """Gaps that are the same in all bins, as far as there is room: chance then adds least. At level 0 there is no
        error, at 1 as much as there can be."""
        return np.minimum(level, self._room)

    def single(self, level: float) -> Floats:
        """Gaps that are as large as can be where the found ones are largest, one bin after the other: the other bins
        then show what chance alone adds. Levels as for `alike`."""
        order = np.argsort(-np.abs(self.confidence - self.hits / self.rows), kind="stable")
        most = (self.shares * self._room)[order]
        taken = np.clip(level * most.sum() - (np.cumsum(most) - most), 0.0, most)
        gaps = np.empty(len(order))
        gaps[order] = taken
        return gaps / self.shares


def _below(errors: Floats, found: float) -> float:
    """The share of errors that are smaller than the found one."""
    return float((errors < found - ROUNDING).mean())


def _up_to(errors: Floats, found: float) -> float:
    """The share of errors that are at most the found one."""
    return float((errors <= found + ROUNDING).mean())
