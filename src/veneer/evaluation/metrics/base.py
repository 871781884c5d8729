"""The input of a task's metric (rows with answers) and its output (measures, and details that are not a number)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veneer.errors import ConfigError
from veneer.evaluation.statistics.measures import Measure


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One row with the answer that a model gave."""

    where: str
    """The file and line of the row."""
    prompt: str
    """The last message of the user."""
    reference: str
    """The reference answer."""
    answer: str
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row as the file has it."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a metric found: measures with one row for each answer, and further details to show."""

    measures: list[Measure]
    details: dict[str, Any] = field(default_factory=dict)
    """Plain values by name: a confusion matrix, counts of errors, a signature."""


TaskMetric = Callable[[Sequence[AnsweredRow]], TaskResult]
"""A metric of a task, computed from the rows and one model's answers."""


def expanded(measure: Measure, places: Sequence[int], rows: int) -> Measure:
    """A measure of some rows as a measure of all rows; the other rows add nothing.

    Args:
        measure: the measure of some rows.
        places: the indices of these rows among all rows.
        rows: the number of all rows.
    """
    counts = np.zeros((rows, measure.counts.shape[1]))
    counts[list(places)] = measure.counts
    return Measure(measure.name, counts, measure.value, measure.scale)


def with_results(
    measures: Sequence[Measure], results: Sequence[TaskResult], places: Sequence[int], rows: int
) -> list[Measure]:
    """The measures that every evaluation has, followed by those of metrics.

    Args:
        measures: the measures of all rows.
        results: the results of metrics on the rows that have an answer.
        places: the indices of these rows among all rows.
        rows: the number of all rows.

    Raises:
        ConfigError: two measures have the same name, so their intervals would be mixed up.
    """
    found = [*measures, *(expanded(one, places, rows) for result in results for one in result.measures)]
    refuse_same_names([one.name for one in found])
    return found


def refuse_same_names(names: Sequence[str]) -> None:
    """Refuse several measures of the same name, since their intervals would be mixed up.

    Raises:
        ConfigError: two names are equal.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ConfigError(
            f"two measures are named {', '.join(twice)}; give the function of your own metric, or the score in its "
            "dictionary, another name"
        )


def first_measure(results: Sequence[TaskResult]) -> str | None:
    """The name of the first metric's first measure, or None if there is none."""
    return next((one.name for result in results[:1] for one in result.measures[:1]), None)
