"""A measure of a model on rows: counts of every row, and a function of their sums.

Every measure here is a function of sums over rows (a mean is the sum of values over the sum of weights; macro-F1 and
BLEU follow from summed counts). So one way of resampling, of swapping models and of leaving rows out serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scale = tuple[float, float]

SHARE: Scale = (0.0, 1.0)
"""The scale from all wrong to all right."""
PERCENT: Scale = (0.0, 100.0)

LOWER_IS_BETTER = (
    "loss", "perplexity", "bits_per_byte", "kl", "ece", "brier", "unparsable",
    "word_perplexity", "byte_perplexity", "brier_score",
)  # fmt: skip
"""Measures of which lower is better; of all others higher is. See `lower_is_better`."""
SHARES = (
    "exact", "fields", "json_valid", "json_precision", "json_recall", "json_f1", "accuracy", "macro_f1", "unparsable",
    "number", "rouge_l", "choice_accuracy", "choice_accuracy_per_byte",
    "arithmetic", "copying", "json", "constraints", "tools", "acc", "acc_norm", "exact_match",
)  # fmt: skip
"""Measures that are shares, which people read in percent."""


def lower_is_better(name: str) -> bool:
    """Whether a lower value of a measure is better.

    Args:
        name: the name of the measure. lm-evaluation-harness names a filtered one as in `perplexity,strip`.
    """
    return name.partition(",")[0] in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One measure of one model."""

    name: str
    counts: Floats
    """The counts that each row adds, [rows, columns]."""
    value: Callable[[Floats], Floats]
    """The measure of summed counts, [..., columns] to [...]. NaN if no row in the sums counts."""
    scale: Scale | None
    """The least and the greatest value that a row can have. With such bounds, even equal rows leave doubt. None for
    measures without bounds."""

    @property
    def total(self) -> float:
        """The measure over all rows."""
        return float(self.value(self.counts.sum(0)))

    @property
    def binary(self) -> bool:
        """Whether the measure is a share: every row that counts is at one end of the scale."""
        if self.scale is None or self.counts.shape[1] != 2:
            return False
        counting, values = self.counts[:, 1], self.counts[:, 0]
        return bool(np.isin(counting, (0.0, 1.0)).all() and np.isin(values[counting == 1], self.scale).all())

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each row of a share is right (at the upper end of the scale), `[rows]`."""
        return np.asarray((self.counts[:, 1] == 1) & (self.counts[:, 0] == (self.scale or SHARE)[1]))

    @property
    def counting(self) -> NDArray[np.bool_]:
        """Whether each row adds anything, `[rows]`; rows that do not count say nothing about the measure."""
        return np.asarray((self.counts != 0).any(1))

    def clustered(self, clusters: NDArray[np.int64]) -> Measure:
        """A measure whose rows are clusters of these rows.

        Args:
            clusters: the number of each row's cluster, [rows], from 0.
        """
        sums = np.zeros((int(clusters.max()) + 1, self.counts.shape[1]))
        np.add.at(sums, clusters, self.counts)
        return Measure(self.name, sums, self.value, self.scale)


def quotient(sums: Floats) -> Floats:
    """The first column divided by the second one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def exp_quotient(sums: Floats) -> Floats:
    """The exponential of the first column divided by the second one."""
    return np.exp(quotient(sums))


def ratio(name: str, numerators: Sequence[float], weights: Sequence[float], *, scale: Scale | None = None) -> Measure:
    """A measure that is one sum divided by another: a weighted mean."""
    return Measure(name, np.array([numerators, weights], dtype=float).T, quotient, scale)


def mean_of(name: str, values: Sequence[float | None], *, scale: Scale | None = SHARE) -> Measure | None:
    """The mean of the rows that have a value, or None if no row has one."""
    present = [float(value is not None) for value in values]
    if not any(present):
        return None
    return ratio(name, [float(value or 0.0) for value in values], present, scale=scale)


def scale_of(values: Sequence[float]) -> Scale:
    """The assumed scale of scores of an unknown kind: from 0 to 1, 10, 100 or the next power of ten that none of them
    exceeds, and likewise below 0. Scores then leave the same doubt as they would in percent."""
    below, above = min(values, default=0.0), max(values, default=1.0)
    return (0.0 if below >= 0 else -_power_of_ten(-below)), _power_of_ten(above)


def _power_of_ten(size: float) -> float:
    # Rounding of a sum of parts may exceed 100 in the last digits.
    return 10.0 ** min(308, max(0, math.ceil(math.log10(max(size, 1.0)) - 1e-9)))


def scale_of_all(measures: Iterable[Measure]) -> Scale | None:
    """The scale that contains those of several models' measures; None if one has none. If one model scores 1 on every
    row, the scale may still go to 10, as the scores of another model show."""
    scales = [one.scale for one in measures]
    known = [one for one in scales if one is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(scales) else None


def numbered(labels: Sequence[object]) -> NDArray[np.int64]:
    """The number of each row's cluster, from 0 in order of first appearance: rows with equal labels share one."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
