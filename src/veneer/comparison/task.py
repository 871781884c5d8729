"""The measures of a comparison's runs, those of the task included: from the answers that runs have left and from the
losses of choices, so that no model is loaded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from veneer.comparison.order import RunOutcome
from veneer.data.encoded.chat import split_for_evaluation
from veneer.data.records import read_rows
from veneer.enums import Column
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.choice import ChoiceRow, choice_rows, list_choices
from veneer.evaluation.metrics.choose import ChosenMetrics, fitting_metrics, named_metrics
from veneer.evaluation.rows import last_message, measured
from veneer.evaluation.statistics.measures import Measure


def check_metrics(names: Sequence[str]) -> ChosenMetrics | None:
    """The metrics that are named, or None where none are: then the rows say which.

    Raises:
        ConfigError: a name is unknown.
    """
    return named_metrics(names) if names else None


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run with its measures."""

    outcome: RunOutcome
    measures: list[Measure]
    details: Mapping[str, Any]
    """What metrics found beside their measures: confusion matrices, fields, signatures."""
    first: str | None = None
    """The first measure of the first metric of answers; None where there is none."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The evaluation rows of a comparison, and the metrics that their answers are measured by."""

    rows: list[AnsweredRow]
    """The rows that have an answer; what a model answers is left empty."""
    places: list[int]
    """Where they stand among all rows."""
    count: int
    chosen: ChosenMetrics
    choices: list[ChoiceRow]
    """The choices of `rows` where they are compared by their likelihoods; else empty."""

    @property
    def primary(self) -> str | None:
        """The measure that decides; None takes the first one."""
        return self.chosen.primary

    def measured(
        self, outcome: RunOutcome, answers: Sequence[str | None], losses: Sequence[Sequence[float]] = ()
    ) -> MeasuredRun:
        """A run with all its measures; its metrics are their values.

        Args:
            outcome: what the run has left.
            answers: its answers, one for each row of the file.
            losses: nats of every choice of `rows`; without effect where none are compared.
        """
        answered = [
            replace(row, answer=answers[place] or "") for row, place in zip(self.rows, self.places, strict=True)
        ]
        found = measured(outcome.rows, answered, self.places, self.chosen.answers, self.choices, losses)
        outcome = replace(outcome, metrics={one.name: one.total for one in found.measures})
        return MeasuredRun(outcome, found.measures, found.details, found.first)


def task_rows(file: str, chosen: ChosenMetrics | None, columns: Mapping[Column, str] | None = None) -> TaskRows:
    """The rows of a file.

    Args:
        file: the evaluation rows, as every run was scored on them.
        chosen: the metrics; None takes those that the rows call for.
        columns: as for `veneer.data.records.read_file`.

    Raises:
        DataError: choices are compared, and rows have no usable ones (see `choice_rows`).
    """
    pairs = read_rows(file, columns)
    rows, places = [], []
    for place, (record, raw) in enumerate(pairs):
        found = split_for_evaluation(record)
        if found is not None:
            rows.append(AnsweredRow(record.where, last_message(record), found[1], "", raw))
            places.append(place)
    chosen = chosen or fitting_metrics(rows, list_choices(rows))
    return TaskRows(rows, places, len(pairs), chosen, choice_rows(rows) if chosen.choice else [])
