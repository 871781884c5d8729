"""What a metric of a task gets (rows with answers) and gives (measures, and details that are no single number)."""

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
    return Measure(measure.name, counts, measure.value, measure.scale)


def with_results(
    measures: Sequence[Measure], results: Sequence[TaskResult], places: Sequence[int], rows: int
) -> list[Measure]:
    """The measures that every evaluation has, and behind them those of metrics.

    Args:
        measures: of all rows.
        results: what metrics found in the rows that have an answer.
        places: where these rows stand among all.
        rows: the number of all rows.

    Raises:
        ConfigError: two measures have one name, by which their intervals would be mixed up.
    """
    found = [*measures, *(expanded(one, places, rows) for result in results for one in result.measures)]
    refuse_same_names([one.name for one in found])
    return found


def refuse_same_names(names: Sequence[str]) -> None:
    """Refuse measures of one name, by which their intervals would be mixed up. Raises ConfigError."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ConfigError(
            f"two measures are called {', '.join(twice)}; give the function of your own metric, or the score in its "
            "dictionary, another name"
        )


def first_measure(results: Sequence[TaskResult]) -> str | None:
    """The name of the first metric's first measure, or None where there is none."""
    return next((one.name for result in results[:1] for one in result.measures[:1]), None)
