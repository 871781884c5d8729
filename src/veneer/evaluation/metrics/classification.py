"""Classification: the answer is one of the labels that the references have, or it is unparsable.

An answer is a label if it equals it up to case and the white space and punctuation around it, in any script. The way in
which accents are stored makes no difference. Unparsable answers are wrong and have their own column in the confusion
matrix.
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
"""The ASCII characters that are ignored around a label. Other signs are part of one (`-1`, `C#`)."""
LONGEST_LABEL = 60
"""The longest reference that can be a label, in characters."""
ROWS_A_LABEL = 3
"""The least average number of rows for each different reference if references are to be labels."""


MANY_LABELS = 300
"""Up to this number, different references are labels whatever their form, since a few rows of a task with many labels
may have each of them once. The limit exists because every pair of row and label has a cell: with free texts these
would fill the memory."""


def classification(rows: Sequence[AnsweredRow]) -> TaskResult:
    """Accuracy, macro-F1 (the mean over the references' labels) and the share of unparsable answers.

    The details contain the confusion matrix: a line for each expected label, a column for each given label, and a last
    column for unparsable answers.

    Raises:
        DataError: there are many references, and they do not look like labels.
    """
    references = [composed(row.reference) for row in rows]
    labels = sorted(set(references))
    if len(labels) > MANY_LABELS and not look_like_labels(references):
        raise DataError(
            f"classification: {count_of(len(rows), 'row')} have {len(labels):,} different references of up to "
            f"{count_of(max(map(len, labels)), 'character')}; more than {MANY_LABELS} are used as labels only if "
            f"there are on average {ROWS_A_LABEL} rows or more to each and none is longer than {LONGEST_LABEL} "
            "characters. Name a metric for texts: rouge-l, chrf or exact"
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
    """Whether references, without white space around them, have the form of labels."""
    labels = set(references)
    few = 1 < len(labels) <= len(references) / ROWS_A_LABEL
    return few and max(map(len, labels)) <= LONGEST_LABEL


def spellings(labels: Sequence[str]) -> dict[str, int]:
    """The index of each label by its normalized spelling; spellings that two labels share are left out."""
    loose = [_bare(label) for label in labels]
    return {text: place for place, text in enumerate(loose) if loose.count(text) == 1 and text}


def _number(answer: str, numbers: dict[str, int], by_spelling: dict[str, int]) -> int:
    exact = numbers.get(composed(answer))
    return by_spelling.get(_bare(answer), len(numbers)) if exact is None else exact


def _bare(text: str) -> str:
    """A text in one case, without the characters that are ignored around a label."""
    text = normalize("NFC", text)
    inner = [place for place, character in enumerate(text) if not _is_around(character)]
    return text[inner[0] : inner[-1] + 1].casefold() if inner else ""


def _is_around(character: str) -> bool:
    """Whether a character is ignored around a label: punctuation, white space and invisible marks."""
    kind = category(character)
    return character in _AROUND if character.isascii() else kind[0] in "PZ" or kind == "Cf"


def _by_class(expected: Floats, given: Floats, count: int) -> Floats:
    """For each row and class whether it is right, was given and was expected: [rows, 3 · count]."""
    classes = np.arange(count)
    is_expected, is_given = expected[:, None] == classes, given[:, None] == classes
    return np.hstack([is_expected & is_given, is_given, is_expected]).astype(float)


def macro_f1(sums: Floats, *, count: int) -> Floats:
    """The mean of F1 over classes, from the summed columns of all classes; a class that occurs on neither side is left
    out.

    Args:
        sums: the counts of right, given and expected rows of each class, [..., 3 · count].
        count: the number of classes.
    """
    right, given, expected = (sums[..., part * count : (part + 1) * count] for part in range(3))
    there = given + expected > 0
    scores = np.where(there, 2 * right / np.where(there, given + expected, 1.0), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(scores.sum(-1) / there.sum(-1))
