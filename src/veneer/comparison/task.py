"""The measures of a comparison's runs, those of the task included: from the answers that runs have left, so that no
model is loaded again, and runs of an older comparison have them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from veneer.comparison.order import RunOutcome
from veneer.data.chat import split_for_evaluation
from veneer.data.records import read_rows
from veneer.errors import ConfigError
from veneer.evaluation.metrics.base import AnsweredRow, expanded
from veneer.evaluation.metrics.choose import CHOICE, ChosenMetrics, fitting_metrics, named_metrics
from veneer.evaluation.rows import last_message
from veneer.evaluation.statistics.compare import measures_of
from veneer.evaluation.statistics.measures import Measure


def check_metrics(names: Sequence[str]) -> ChosenMetrics | None:
    """The metrics that are named, or None where none are: then the rows say which.

    Raises:
        ConfigError: a name is unknown, or needs the model and not its answers.
    """
    if CHOICE in names:
        raise ConfigError(
            f"--metric {CHOICE}: compares the likelihoods of choices, and a comparison scores answers alone; use "
            "`veneer evaluate` with the adapters that the comparison leaves"
        )
    return named_metrics(names) if names else None


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run with its measures."""

    outcome: RunOutcome
    measures: list[Measure]
    details: Mapping[str, Any]
    """What metrics found beside their measures: confusion matrices, fields, signatures."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The evaluation rows of a comparison, and the metrics that their answers are measured by."""

    rows: list[AnsweredRow]
    """Those that have an answer; the answer itself is empty."""
    places: list[int]
    """Where they stand among all rows."""
    count: int
    chosen: ChosenMetrics

    @property
    def primary(self) -> str | None:
        """The measure that decides; None takes the first one."""
        return self.chosen.primary

    def measured(self, outcome: RunOutcome, answers: Sequence[str | None]) -> MeasuredRun:
        """A run with all its measures; its metrics are their values."""
        answered = [
            replace(row, answer=answers[place] or "") for row, place in zip(self.rows, self.places, strict=True)
        ]
        results = [metric(answered) for metric in self.chosen.answers] if answered else []
        measures = measures_of(outcome.rows)
        measures += [expanded(one, self.places, self.count) for result in results for one in result.measures]
        details = {key: value for result in results for key, value in result.details.items()}
        return MeasuredRun(replace(outcome, metrics={one.name: one.total for one in measures}), measures, details)


def task_rows(file: str, chosen: ChosenMetrics | None) -> TaskRows:
    """The rows of a file.

    Args:
        file: the evaluation rows, as every run was scored on them.
        chosen: the metrics; None takes those that the rows call for.
    """
    pairs = read_rows(file)
    rows, places = [], []
    for place, (record, raw) in enumerate(pairs):
        found = split_for_evaluation(record)
        if found is not None:
            rows.append(AnsweredRow(record.where, last_message(record), found[1], "", raw))
            places.append(place)
    return TaskRows(rows, places, len(pairs), chosen or fitting_metrics(rows, choices=False))
