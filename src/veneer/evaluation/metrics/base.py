"""What a metric of a task gets (rows with answers) and gives (measures, and details that are no single number)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veneer.evaluation.statistics.measures import Measure


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One row with the answer that a model gave."""

    where: str
    """File and line."""
    prompt: str
    """The last message of the user."""
    reference: str
    """The answer that was expected."""
    answer: str
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row as the file has it."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a metric found: measures with one row for each answer, and whatever else there is to show."""

    measures: list[Measure]
    details: dict[str, Any] = field(default_factory=dict)
    """Plain values by name: a confusion matrix, counts of errors, a signature."""


TaskMetric = Callable[[Sequence[AnsweredRow]], TaskResult]
"""A metric of a task, computed from the rows and one model's answers."""


def expanded(measure: Measure, places: Sequence[int], rows: int) -> Measure:
    """A measure of some rows as one of all rows; the others add nothing.

    Args:
        measure: of some rows.
        places: where these rows stand among all.
        rows: the number of all rows.
    """
    counts = np.zeros((rows, measure.counts.shape[1]))
    counts[list(places)] = measure.counts
    return Measure(measure.name, counts, measure.value, measure.bounded)
