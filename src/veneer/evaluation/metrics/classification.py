"""Classification: the answer is one of the labels that the references have, or it is unparsable.

An answer is a label if it equals it but for case, white space and punctuation around it, in any script; how accents are
stored makes no difference. Unparsable answers are wrong, and a column of their own in the confusion matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from unicodedata import category, normalize

import numpy as np

from veneer.errors import DataError
from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.scoring import composed
from veneer.evaluation.statistics.measures import SHARE, Floats, Measure, mean_of
from veneer.text.counting import count_of

_AROUND = " \t\r\n.,;:!?'\"`*()[]{}"
"""What may stand around a label, of ASCII: other signs are part of one (`-1`, `C#`)."""
LONGEST_LABEL = 60
"""The longest reference that is taken for a label, in characters."""
ROWS_A_LABEL = 3
"""The least number of rows that references have on average if they are taken for labels."""


MANY_LABELS = 300
"""The number of different references up to which they are labels whatever their form: a few rows of a task with many
labels may have each of them once. Every row and every label has a cell, so that free texts would fill the memory."""


def classification(rows: Sequence[AnsweredRow]) -> TaskResult:
    """Accuracy, macro-F1 (the mean over the references' labels) and the share of unparsable answers.

    The details hold the confusion matrix: a line for each label that was expected, a column for each that was given,
    and the last column for unparsable answers.

    Raises:
        DataError: there are many references, and they do not look like labels.
    """
    references = [composed(row.reference) for row in rows]
    labels = sorted(set(references))
    if len(labels) > MANY_LABELS and not look_like_labels(references):
        raise DataError(
            f"classification: {count_of(len(rows), 'row')} have {len(labels):,} different references of up to "
            f"{count_of(max(map(len, labels)), 'character')}; more than {MANY_LABELS} are taken for labels only where "
            f"there are {ROWS_A_LABEL} rows or more to each on average and none is longer than {LONGEST_LABEL} "
            "characters. Name a metric of texts: rouge-l, chrf or exact"
        )
    numbers = {label: place for place, label in enumerate(labels)}
    by_spelling = spellings(labels)
    expected = np.array([numbers[reference] for reference in references])
    given = np.array([_number(row.answer, numbers, by_spelling) for row in rows])
    count = len(labels)
    confusion = np.zeros((count, count + 1), dtype=int)
    np.add.at(confusion, (expected, given), 1)
    found = [
        mean_of("accuracy", (expected == given).astype(float).tolist()),
        Measure("macro_f1", _by_class(expected, given, count), partial(macro_f1, count=count), scale=SHARE),
        mean_of("unparsable", (given == count).astype(float).tolist()),
    ]
    details = {"confusion": {"labels": labels, "counts": confusion.tolist()}}
    return TaskResult([one for one in found if one is not None], details)


def look_like_labels(references: Sequence[str]) -> bool:
    """Whether references, without white space around them, are taken for labels by their form."""
    labels = set(references)
    few = 1 < len(labels) <= len(references) / ROWS_A_LABEL
    return few and max(map(len, labels)) <= LONGEST_LABEL


def spellings(labels: Sequence[str]) -> dict[str, int]:
    """The number of each label by its loose spelling; spellings that two labels share are left out."""
    loose = [_bare(label) for label in labels]
    return {text: place for place, text in enumerate(loose) if loose.count(text) == 1 and text}


def _number(answer: str, numbers: dict[str, int], by_spelling: dict[str, int]) -> int:
    exact = numbers.get(composed(answer))
    return by_spelling.get(_bare(answer), len(numbers)) if exact is None else exact


def _bare(text: str) -> str:
    """A text in one case, without what may stand around a label."""
    text = normalize("NFC", text)
    inner = [place for place, character in enumerate(text) if not _is_around(character)]
    return text[inner[0] : inner[-1] + 1].casefold() if inner else ""


def _is_around(character: str) -> bool:
    """Whether a character may stand around a label: punctuation, white space, and marks that cannot be seen."""
    kind = category(character)
    return character in _AROUND if character.isascii() else kind[0] in "PZ" or kind == "Cf"


def _by_class(expected: Floats, given: Floats, count: int) -> Floats:
    """For each row and class whether it is right in it, was given it, and was expected in it: [rows, 3 · count]."""
    classes = np.arange(count)
    is_expected, is_given = expected[:, None] == classes, given[:, None] == classes
    return np.hstack([is_expected & is_given, is_given, is_expected]).astype(float)


def macro_f1(sums: Floats, *, count: int) -> Floats:
    """The mean of F1 over classes, from the summed columns of all classes; a class that neither side has is left out.

    Args:
        sums: [..., 3 · count]: right, given and expected of each class.
        count: the number of classes.
    """
    right, given, expected = (sums[..., part * count : (part + 1) * count] for part in range(3))
    there = given + expected > 0
    scores = np.where(there, 2 * right / np.where(there, given + expected, 1.0), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(scores.sum(-1) / there.sum(-1))
