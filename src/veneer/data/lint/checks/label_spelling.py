"""Labels that look like slips of the pen for another: `card_arival` once, beside `card_arrival` a hundred times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from veneer.counting import count_of
from veneer.data.lint.facts import FileFacts
from veneer.data.lint.labels import MOST
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity

LABEL_SPELLING = LintRule(
    "label-spelling",
    Severity.WARNING,
    Cost.FILE,
    "have a label that differs by case, signs or a letter from one that is far more frequent",
    "write it as the frequent one, if it is the same",
)
_FREQUENT = 10
"""A label is far more frequent if it is on so many times the rows, and on at least so many."""
_AVERAGE = 3
"""Answers are labels if each is, on average, that of so many rows."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    labels = facts.labels
    total = sum(spelling.count for spelling in labels.spellings.values())
    if labels.overflown or labels.long > 0.01 * total or len(labels.spellings) * _AVERAGE > total:
        return
    frequent = [(text, one.count) for text, one in labels.spellings.items() if one.count >= _FREQUENT]
    for text, spelling in labels.spellings.items():
        for other, count in frequent:
            if count >= _FREQUENT * spelling.count and text != other and alike(text, other):
                found = f"{text!r} on {count_of(spelling.count, 'row')}, {other!r} on {count:,}"
                yield spelling.rows, LABEL_SPELLING.found(found)
                break


def alike(one: str, other: str) -> bool:
    """Whether two labels are the same but for case and signs, or but for one letter put in, left out, changed or
    swapped with the next. Digits count: `level_1` is not `level_2`."""
    first, second = _letters(one), _letters(other)
    if first == second:
        return bool(first)
    shorter = min(len(first), len(second))
    if shorter < 5 or abs(len(first) - len(second)) > 1:
        return False
    start = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    a, b = first[start:], second[start:]
    slip = a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
    return slip and [c for c in first if c.isdigit()] == [c for c in second if c.isdigit()]


@lru_cache(maxsize=MOST)
def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


CHECK = FileCheck((LABEL_SPELLING,), _run)
