"""Measures that lm-evaluation-harness computes over all rows at once, as sums over rows. As sums, their difference has
an interval and a test like any other measure.

Corpus BLEU and chrF follow from summed n-gram counts (`veneer.evaluation.metrics.translation`), F1 and Matthews'
correlation of two classes from the counts of the four cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric
from veneer.evaluation.metrics.translation import bleu, chrf
from veneer.evaluation.statistics.measures import SHARE, Floats, Measure, Scale

CLASSES = (0, 1)


def _translation(metric: TaskMetric) -> Callable[[Sequence[Any]], Measure | None]:
    """A measure of pairs of reference and answer; None if a row has several references."""

    def measure(items: Sequence[Any]) -> Measure | None:
        pairs = [_pair(item) for item in items]
        rows = [AnsweredRow("", "", *pair) for pair in pairs if pair is not None]
        return metric(rows).measures[0] if len(rows) == len(items) else None

    return measure


def _pair(item: Any) -> tuple[str, str] | None:
    """The reference and the answer of an item, if it has exactly one of each."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        return None
    reference, answer = (one[0] if isinstance(one, tuple | list) and len(one) == 1 else one for one in item)
    return (reference, answer) if isinstance(reference, str) and isinstance(answer, str) else None


def _two_classes(
    name: str, value: Callable[[Floats], Floats], scale: Scale
) -> Callable[[Sequence[Any]], Measure | None]:
    """A measure of pairs of right and given class; None if there are classes other than 0 and 1."""

    def measure(items: Sequence[Any]) -> Measure | None:
        if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            return None
        if not all(isinstance(one, int | np.integer) and one in CLASSES for item in items for one in item):
            return None
        counts = np.zeros((len(items), 4))
        counts[np.arange(len(items)), [2 * int(right) + int(given) for right, given in items]] = 1.0
        return Measure(name, counts, value, scale)

    return measure


def f1_of(sums: Floats) -> Floats:
    """F1 of class 1 from the counts of right and given class (00, 01, 10, 11), [..., 4] to [...]; 0 if neither is 1, as
    in scikit-learn."""
    _, false, missed, both = (sums[..., place] for place in range(4))
    below = 2 * both + false + missed
    return np.where(below > 0, 2 * both / np.where(below > 0, below, 1.0), 0.0)


def matthews_of(sums: Floats) -> Floats:
    """Matthews' correlation from the same counts; 0 if a class does not occur, as in scikit-learn."""
    neither, false, missed, both = (sums[..., place] for place in range(4))
    square = (both + false) * (both + missed) * (neither + false) * (neither + missed)
    found = (both * neither - false * missed) / np.sqrt(np.where(square > 0, square, 1.0))
    return np.where(square > 0, found, 0.0)


CORPUS: dict[str, Callable[[Sequence[Any]], Measure | None]] = {
    "bleu": _translation(bleu),
    "chrf": _translation(chrf),
    "f1_score": _two_classes("f1", f1_of, SHARE),
    "matthews_corrcoef": _two_classes("mcc", matthews_of, (-1.0, 1.0)),
}
"""Maps the name of the harness's aggregation function to a function that makes the measure from the items of all rows
(`f1` is `f1_score` there). It gives None if it cannot use the items."""
