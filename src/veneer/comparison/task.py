"""The measures of a comparison's runs, including those of the task. They come from the answers that runs have written
and from the losses of choices, so that no model is loaded again."""

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
    """The named metrics, or None if none are named: then the rows decide.

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
    """Further results of metrics: confusion matrices, fields, signatures."""
    first: str | None = None
    """The first measure of the first metric of answers; None if there is none."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The evaluation rows of a comparison, and the metrics of their answers."""

    rows: list[AnsweredRow]
    """The rows that have a reference; the model's answer is left empty."""
    places: list[int]
    """The indices of these rows among all rows."""
    count: int
    chosen: ChosenMetrics
    choices: list[ChoiceRow]
    """The choices of `rows` if they are compared by their likelihoods; otherwise empty."""

    @property
    def primary(self) -> str | None:
        """The measure that decides; None takes the first one."""
        return self.chosen.primary

    def measured(
        self, outcome: RunOutcome, answers: Sequence[str | None], losses: Sequence[Sequence[float]] = ()
    ) -> MeasuredRun:
        """A run with all its measures; its metrics are their values.

        Args:
            outcome: the result of the run.
            answers: the run's answers, one for each row of the file.
            losses: the loss of every choice of `rows`, in nats; unused if no choices are compared.
        """
        answered = [
            replace(row, answer=answers[place] or "") for row, place in zip(self.rows, self.places, strict=True)
        ]
        scores = measured(outcome.rows, answered, self.places, self.chosen.answers, self.choices, losses)
        metrics = {measure.name: measure.total for measure in scores.measures}
        return MeasuredRun(replace(outcome, metrics=metrics), scores.measures, scores.details, scores.first)


def task_rows(file: str, chosen: ChosenMetrics | None, columns: Mapping[Column, str] | None = None) -> TaskRows:
    """The rows of a file, with their metrics.

    Args:
        file: the evaluation rows, on which every run was scored.
        chosen: the metrics; None takes those that fit the rows.
        columns: the column names, as for `veneer.data.records.read_file`.

    Raises:
        DataError: choices are compared, but rows have no usable ones (see `choice_rows`).
    """
    pairs = read_rows(file, columns)
    rows, places = [], []
    for place, (record, raw) in enumerate(pairs):
        split = split_for_evaluation(record)
        if split is not None:
            _, reference = split
            rows.append(AnsweredRow(record.where, last_message(record), reference, "", raw))
            places.append(place)
    chosen = chosen or fitting_metrics(rows, list_choices(rows))
    return TaskRows(rows, places, len(pairs), chosen, choice_rows(rows) if chosen.choice else [])
