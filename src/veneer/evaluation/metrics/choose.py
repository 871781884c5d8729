"""Which metrics an evaluation has: those that are named, or those that the rows call for."""

from __future__ import annotations

from collections.abc import Sequence
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
"""Metrics of answers by the names that the option `--metric` takes."""
EXACT = "exact"
ALWAYS = (EXACT, "loss", "perplexity")
"""Names of measures that every evaluation has; naming one makes it the primary one."""
OF_EVERY_EVALUATION = (*ALWAYS, "fields", "bits_per_byte")
"""Names of all measures that an evaluation has without a metric."""
CHOICE = "choice"
"""The name of multiple choice by likelihood, which needs the model and not its answers."""
PRIMARY = {
    "json": "json_f1", "classification": "accuracy", "number": "number", "rouge-l": "rouge_l", "bleu": "bleu",
    "chrf": "chrf", CHOICE: "choice_accuracy",
}  # fmt: skip
"""The measure of a metric that is the primary one where the metric is named first."""
SHARES = ("exact", "accuracy", "number", "choice_accuracy")
"""The measures that are a share of rows."""


@dataclass(frozen=True, slots=True)
class ChosenMetrics:
    """The metrics of an evaluation."""

    answers: tuple[TaskMetric, ...]
    """The metrics of answers, in the order in which they were named."""
    choice: bool
    """Whether choices are compared by their likelihood."""
    primary: str | None
    """The measure that was declared by naming its metric first; None where nothing was named, or the user's own was."""


def named_metrics(names: Sequence[str]) -> ChosenMetrics:
    """The metrics that `--metric` names.

    Raises:
        ConfigError: a name is unknown, or a file, function or program is not there.
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
    first = names[0] if names else None
    primary = first if first in ALWAYS else PRIMARY.get(first or "")
    return ChosenMetrics(tuple(found), CHOICE in names, primary)


def fitting_metrics(rows: Sequence[AnsweredRow], choices: bool) -> ChosenMetrics:
    """The metrics that rows call for by the form of their references.

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
    """Compute metrics once with references for answers, before any answer is waited for.

    The metric whose measure was declared is computed of all rows, which have to have it. Of the others one row says
    whether they can be computed: they may be programs that cost something.

    Args:
        rows: the rows that have an answer; what their answers are does not count.
        chosen: the metrics.

    Returns:
        The number of rows that count for the measure that was declared; of all that have an answer where that is none
        of a metric of answers.

    Raises:
        ConfigError: the rows do not have the measure that was declared, two measures have one name, a package is not
            installed, or a metric of the user's own fails.
        DataError: a metric of the user's own gives what is no number.
    """
    if chosen.primary == EXACT and not rows:
        raise ConfigError(
            f"these rows have no {EXACT}: none has an answer to be equal to; give rows with answers, or name a metric "
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
            f"these rows have no {chosen.primary}: no reference is of the form that the metric asks for; name a metric "
            "that fits the references, or none, and one is chosen by them"
        )
    return counts[chosen.primary] if declared and chosen.primary is not None else len(rows)
