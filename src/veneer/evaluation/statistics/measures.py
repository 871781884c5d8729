"""A measure of a model on rows: counts of every row, and what their sums mean.

Every measure here is a function of sums over rows (a mean is the sum of values over the sum of weights; macro-F1 and
BLEU follow from summed counts). So one way of resampling, of swapping models and of leaving rows out serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWER_IS_BETTER = (
    "loss", "perplexity", "bits_per_byte", "kl", "ece", "brier", "unparsable",
    "word_perplexity", "byte_perplexity", "brier_score",
)  # fmt: skip
"""Measures of which less is better; of all others more is. See `lower_is_better`."""
SHARES = (
    "exact", "fields", "json_valid", "json_precision", "json_recall", "json_f1", "accuracy", "macro_f1", "unparsable",
    "number", "rouge_l", "choice_accuracy", "choice_accuracy_per_byte",
    "arithmetic", "copying", "json", "constraints", "tools", "acc", "acc_norm", "exact_match",
)  # fmt: skip
"""Measures that are shares, which people read in percent."""


def lower_is_better(name: str) -> bool:
    """Whether less is better of a measure.

    Args:
        name: of the measure. What lm-evaluation-harness has passed through a filter is named `perplexity,strip`.
    """
    return name.partition(",")[0] in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One measure of one model."""

    name: str
    counts: Floats
    """What each row adds, [rows, columns]."""
    value: Callable[[Floats], Floats]
    """The measure of summed counts: [..., columns] to [...]. NaN where the sums are of no row that counts."""
    bounded: bool
    """Whether it is a mean of values between 0 and 1, so that even equal rows leave doubt."""

    @property
    def total(self) -> float:
        """The measure of all rows."""
        return float(self.value(self.counts.sum(0)))

    @property
    def binary(self) -> bool:
        """Whether it is a share: every row that counts is right (1) or wrong (0)."""
        if not self.bounded or self.counts.shape[1] != 2:
            return False
        return bool(np.isin(self.counts, (0.0, 1.0)).all())

    @property
    def counting(self) -> NDArray[np.bool_]:
        """Whether each row adds anything, `[rows]`: rows that do not count say nothing of the measure."""
        return np.asarray((self.counts != 0).any(1))

    def clustered(self, clusters: NDArray[np.int64]) -> Measure:
        """A measure whose rows are clusters of these rows.

        Args:
            clusters: the number of each row's cluster, [rows], from 0.
        """
        sums = np.zeros((int(clusters.max()) + 1, self.counts.shape[1]))
        np.add.at(sums, clusters, self.counts)
        return Measure(self.name, sums, self.value, self.bounded)


def quotient(sums: Floats) -> Floats:
    """The first column over the second one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def exp_quotient(sums: Floats) -> Floats:
    """The exponential of the first column over the second one."""
    return np.exp(quotient(sums))


def ratio(name: str, numerators: Sequence[float], weights: Sequence[float], *, bounded: bool = False) -> Measure:
    """A measure that is a sum over another: a mean with weights."""
    return Measure(name, np.array([numerators, weights], dtype=float).T, quotient, bounded)


def mean_of(name: str, values: Sequence[float | None], *, bounded: bool = True) -> Measure | None:
    """The mean of the rows that have a value, or None where no row has one."""
    present = [float(value is not None) for value in values]
    if not any(present):
        return None
    return ratio(name, [float(value or 0.0) for value in values], present, bounded=bounded)


def numbered(labels: Sequence[object]) -> NDArray[np.int64]:
    """The number of each row's cluster, from 0 in order of first appearance: rows with equal labels share one."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
