"""Which metrics an evaluation has: the named ones, or those that fit the rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from veneer.errors import ConfigError, nearest
from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric, refuse_same_names
from veneer.evaluation.metrics.classification import classification, look_like_labels
from veneer.evaluation.metrics.custom import COMMAND, command_metric, python_metric
from veneer.evaluation.metrics.json_fields import json_fields
from veneer.evaluation.metrics.numbers import marked_number, numbers
from veneer.evaluation.metrics.rouge_l import rouge_l
from veneer.evaluation.metrics.translation import bleu, chrf
from veneer.evaluation.scoring import json_object
from veneer.evaluation.statistics.measures import Measure

METRICS: dict[str, TaskMetric] = {
    "json": json_fields,
    "classification": classification,
    "number": numbers,
    "rouge-l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
}
"""Metrics of answers, by the names that `--metric` takes."""
EXACT = "exact"
ALWAYS = (EXACT, "loss", "perplexity")
"""Names of measures that every evaluation has; naming one makes it the primary one."""
OF_EVERY_EVALUATION = (*ALWAYS, "fields", "bits_per_byte")
"""Names of all measures that an evaluation has without any metric."""
CHOICE = "choice"
"""The name of multiple choice by likelihood, which needs the model and not its answers."""
PRIMARY = {
    "json": "json_f1", "classification": "accuracy", "number": "number", "rouge-l": "rouge_l", "bleu": "bleu",
    "chrf": "chrf", CHOICE: "choice_accuracy",
}  # fmt: skip
"""The primary measure of each metric, which counts if the metric is named first."""
SHARES_OF_ROWS = ("exact", "accuracy", "number", "choice_accuracy")
"""The primary measures that are shares of rows, so that the number of rows follows from a margin."""


@dataclass(frozen=True, slots=True)
class ChosenMetrics:
    """The metrics of an evaluation."""

    answers: tuple[TaskMetric, ...]
    """The metrics of answers, in the order in which they were named."""
    choice: bool
    """Whether choices are compared by their likelihood."""
    primary: str | None
    """The measure that was declared by naming its metric first; None if nothing was named, or the user's own metric."""


def named_metrics(names: Sequence[str]) -> ChosenMetrics:
    """The metrics that `--metric` names.

    Raises:
        ConfigError: a name is unknown, or a file, function or program does not exist.
    """
    found: list[TaskMetric] = []
    for name in dict.fromkeys(names):
        if name in METRICS:
            found.append(METRICS[name])
        elif name.startswith(COMMAND):
            found.append(command_metric(name))
        elif ".py:" in name:
            found.append(python_metric(name))
        elif name not in (*ALWAYS, CHOICE):
            known = [*ALWAYS, CHOICE, *METRICS]
            others = f"FILE.py:FUNCTION and '{COMMAND}PROGRAM ARGUMENTS'"
            raise ConfigError(
                f"--metric {name}: unknown{nearest(name, known)}; possible are {', '.join(known)}, {others}"
            )
    return ChosenMetrics(tuple(found), CHOICE in names, _measure_of(names[0]) if names else None)


def _measure_of(name: str) -> str | None:
    """The measure that naming a metric declares; None for the user's own metrics."""
    return name if name in ALWAYS else PRIMARY.get(name)


def said_of_missing(names: Sequence[str], found: Collection[str]) -> list[str]:
    """A warning for each named metric whose measure was not found.

    Args:
        names: the metrics that were named.
        found: the names of the measures of a model.
    """
    return [
        f"--metric {name}: no row has the measure {measure}, so the results have none"
        for name in names
        if (measure := _measure_of(name)) is not None and measure not in found
    ]


def fitting_metrics(rows: Sequence[AnsweredRow], choices: bool) -> ChosenMetrics:
    """The metrics that fit the rows, by the form of their references.

    Args:
        rows: the rows that have an answer.
        choices: whether the rows list choices.
    """
    references = [row.reference.strip() for row in rows]
    if choices:
        return ChosenMetrics((), True, PRIMARY[CHOICE])
    if not references:
        return ChosenMetrics((), False, None)
    if all(json_object(reference) is not None for reference in references):
        return ChosenMetrics((json_fields,), False, None)
    if all(marked_number(reference) is not None for reference in references):
        return ChosenMetrics((numbers,), False, PRIMARY["number"])
    if look_like_labels(references):
        return ChosenMetrics((classification,), False, PRIMARY["classification"])
    return ChosenMetrics((rouge_l,), False, None)


def try_on_references(rows: Sequence[AnsweredRow], chosen: ChosenMetrics) -> int:
    """Compute metrics once with the references as answers, before any answer is generated.

    The metric of the declared measure is computed on all rows, which must have it. The others are tried on one row
    only, since they may be programs that cost something.

    Args:
        rows: the rows that have an answer; the content of their answers is not used.
        chosen: the metrics to try.

    Returns:
        The number of rows that count for the declared measure; if it is not the measure of a metric of answers, the
        number of all rows that have an answer.

    Raises:
        ConfigError: the rows do not have the declared measure, two measures have the same name, a package is not
            installed, or the user's own metric fails.
        DataError: the user's own metric gives something that is not a number.
    """
    if chosen.primary == EXACT and not rows:
        raise ConfigError(
            f"these rows have no {EXACT}: no row has a reference answer; give rows with answers, or name a metric "
            "that they have, such as loss"
        )
    tried = [replace(row, answer=row.reference) for row in rows]
    declared = chosen.primary not in (None, *ALWAYS, PRIMARY[CHOICE])
    found: list[Measure] = []
    for place, metric in enumerate(chosen.answers if tried else ()):
        found += metric(tried if declared and place == 0 else tried[:1]).measures
    refuse_same_names([*OF_EVERY_EVALUATION, *(one.name for one in found)])
    counts = {one.name: int(one.counting.sum()) for one in found}
    if declared and chosen.primary not in counts:
        raise ConfigError(
            f"these rows have no {chosen.primary}: no reference has the form that the metric needs; name a metric "
            "that fits the references, or none, and one is chosen for them"
        )
    return counts[chosen.primary] if declared and chosen.primary is not None else len(rows)
