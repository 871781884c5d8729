"""Multiple choice by likelihood: the model's answer is the choice to which it gives the highest probability.

Nothing is generated, so the form of an answer does not matter. Each choice takes the place of the row's answer. Its
log-likelihood is the sum over its tokens and the end of its turn. That sum favours short choices; dividing it by the
bytes of the choice removes this advantage. Both results are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from veneer.data.forms.record import Record
from veneer.errors import DataError, listing
from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.metrics.calibration import calibration
from veneer.evaluation.metrics.classification import LONGEST_LABEL, ROWS_A_LABEL, look_like_labels
from veneer.evaluation.statistics.measures import mean_of
from veneer.text.counting import count_of

CHOICES = "choices"
"""The key of a row that lists its choices."""

FEW_LABELS = 20
"""Up to this number, different answers are compared whatever their form, since they cost little."""


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """The choices of a row, and which of them is the right one."""

    choices: tuple[str, ...]
    right: int


def choices_of(row: Mapping[str, Any], reference: str, where: str, labels: Sequence[str] = ()) -> ChoiceRow:
    """The choices of a row: those that it lists, or else the labels of all rows.

    Args:
        row: the row as the file has it.
        reference: the answer, which must be one of the choices.
        where: the file and line of the row.
        labels: the choices of a row that lists none.

    Raises:
        DataError: the choices are not a list of at least two different texts, or the answer is not one of them.
    """
    given = row.get(CHOICES, list(labels))
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(one, str) for one in given):
        raise DataError(f"{where}: {CHOICES} must be a list of two texts or more")
    # White space is an answer too: the rejected answer of a pair may consist of it.
    if not all(given):
        raise DataError(f"{where}: {CHOICES} contains an empty text")
    if len(set(given)) < len(given):
        raise DataError(f"{where}: {CHOICES} contains a text twice")
    if reference not in given:
        raise DataError(f"{where}: the answer {reference!r} is not among the {CHOICES}: {listing(given, limit=5)}")
    return ChoiceRow(tuple(given), given.index(reference))


def list_choices(rows: Sequence[AnsweredRow]) -> bool:
    """Whether there are rows, and each of them lists its choices."""
    return bool(rows) and all(CHOICES in row.row for row in rows)


def choice_rows(rows: Sequence[AnsweredRow]) -> list[ChoiceRow]:
    """The choices of rows: those that each lists, or else the answers of all rows.

    Raises:
        DataError: rows have no usable choices (all are named), or they list none and their answers are not labels.
    """
    labels = [] if list_choices(rows) else _labels(rows)
    found, problems = [], []
    for row in rows:
        try:
            found.append(choices_of(row.row, row.reference, row.where, labels))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(f"{len(problems)} of {len(rows)} rows have no usable choices:\n{listing(problems)}")
    return found


def _labels(rows: Sequence[AnsweredRow]) -> list[str]:
    """The answers of all rows, as choices.

    Raises:
        DataError: there is only one answer, or far too many to compare.
    """
    labels = list(dict.fromkeys(row.reference for row in rows))
    if len(labels) == 1:
        raise DataError(
            f"choice: {count_of(len(rows), 'row')} have the same answer, {labels[0]!r:.80}. Rows that list no choices "
            f"are compared by their different answers, and at least two are needed. Give every row its own choices in "
            f"a list, under the key {CHOICES!r}"
        )
    if len(labels) > FEW_LABELS and not look_like_labels([row.reference.strip() for row in rows]):
        longest = max(len(label.strip()) for label in labels)
        raise DataError(
            f"choice: {count_of(len(rows), 'row')} have {len(labels):,} different answers of up to "
            f"{count_of(longest, 'character')}, and each would be compared on every row; more than {FEW_LABELS} are "
            f"used as choices only if there are on average {ROWS_A_LABEL} rows or more to each and none is longer "
            f"than {LONGEST_LABEL} characters. Give every row its own choices in a list, under the key {CHOICES!r}"
        )
    return labels


def with_answer(record: Record, reference: str, answer: str) -> Record:
    """The record with another last answer, which is the only text that is trained."""
    turns = record.trained_turns
    last = turns[-1]
    messages = list(record.messages)
    messages[last] = {**messages[last], "content": answer}
    completion = record.completion
    if completion is not None:
        # The completion of an Alpaca row begins with a blank line, which stays.
        completion = completion.removesuffix(reference) + answer
    untrained = tuple(sorted({*record.untrained, *turns[:-1]}))
    return replace(record, messages=tuple(messages), completion=completion, untrained=untrained)


def choice(rows: Sequence[ChoiceRow], losses: Sequence[Sequence[float]]) -> TaskResult:
    """Accuracy by the sum of log-likelihoods and by its mean over bytes, Brier score, and calibration.

    The confidence in a choice is its share of the likelihoods of all choices of the row.

    Args:
        rows: the choices of each row.
        losses: the loss of every choice of each row, in nats.
    """
    sums = [-np.array(one) for one in losses]
    sizes = [np.array([max(1, len(text.encode())) for text in row.choices]) for row in rows]
    shares = [np.exp(one - one.max()) / np.exp(one - one.max()).sum() for one in sums]
    right = [int(one.argmax()) == row.right for one, row in zip(sums, rows, strict=True)]
    by_byte = [int((s / n).argmax()) == row.right for s, n, row in zip(sums, sizes, rows, strict=True)]
    brier = [
        float(((share - (np.arange(len(share)) == row.right)) ** 2).sum())
        for share, row in zip(shares, rows, strict=True)
    ]
    measures = [
        mean_of("choice_accuracy", [float(one) for one in right]),
        mean_of("choice_accuracy_per_byte", [float(one) for one in by_byte]),
        mean_of("brier", brier, scale=(0.0, 2.0)),
    ]
    found = calibration([float(share.max()) for share in shares], right)
    return TaskResult([one for one in measures if one is not None], {"calibration": asdict(found)})
