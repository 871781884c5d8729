"""Labels that look like misspellings of another: `card_arival` once, and `card_arrival` a hundred times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from veneer.data.lint.facts import FileFacts
from veneer.data.lint.labels import MOST_LABELS, Labels, Spelling
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity
from veneer.text.counting import count_of

LABEL_SPELLING = LintRule(
    "label-spelling",
    Severity.WARNING,
    Cost.FILE,
    "have a label that differs by case, signs or a letter from a far more frequent one",
    "write it like the frequent one, if the same label is meant",
)
_FREQUENT_ROWS = 10
"""A label is far more frequent if it has this multiple of the other's rows, and at least this many rows."""
_LEAST_AVERAGE_ROWS = 3
"""Answers are labels if each, on average, is that of at least this many rows."""
_FEWEST_LETTERS = 5
"""The least number of letters of a label in which one may be misspelt."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    for spelling, found in slips(facts.labels):
        yield spelling.rows, LABEL_SPELLING.found(found)


def slips(labels: Labels) -> Iterator[tuple[Spelling, str]]:
    """Each label that looks like a misspelling, with the detail of the finding; none if answers are not labels."""
    total = sum(spelling.count for spelling in labels.spellings.values())
    if labels.overflown or labels.long > 0.01 * total or len(labels.spellings) * _LEAST_AVERAGE_ROWS > total:
        return
    frequent = [(text, one.count) for text, one in labels.spellings.items() if one.count >= _FREQUENT_ROWS]
    places: dict[str, list[int]] = defaultdict(list)
    for place, (text, _) in enumerate(frequent):
        for key in _keys(text):
            places[key].append(place)
    most = max((count for _, count in frequent), default=0)
    for text, spelling in labels.spellings.items():
        if most < _FREQUENT_ROWS * spelling.count:
            continue
        near = sorted({place for key in _keys(text) for place in places.get(key, ())})
        for other, count in (frequent[place] for place in near):
            if count >= _FREQUENT_ROWS * spelling.count and text != other and alike(text, other):
                yield spelling, f"{text!r} on {count_of(spelling.count, 'row')}, {other!r} on {count:,}"
                break


def _keys(text: str) -> set[str]:
    """The letters of a label, and all of its variants without one letter. Labels that are `alike` share one of these,
    so that thousands need not be compared with each other."""
    letters = _letters(text)
    one_less = (letters[:place] + letters[place + 1 :] for place in range(len(letters)))
    return {letters, *one_less} if len(letters) >= _FEWEST_LETTERS else {letters}


def alike(one: str, other: str) -> bool:
    """Whether two labels are equal up to case and signs, or up to one letter that is inserted, left out, changed or
    swapped with the next. Digits count: `level_1` is not `level_2`."""
    first, second = _letters(one), _letters(other)
    if first == second:
        return bool(first)
    shorter = min(len(first), len(second))
    if shorter < _FEWEST_LETTERS or abs(len(first) - len(second)) > 1:
        return False
    start = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    a, b = first[start:], second[start:]
    slip = a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
    return slip and [c for c in first if c.isdigit()] == [c for c in second if c.isdigit()]


@lru_cache(maxsize=MOST_LABELS)
def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


CHECK = FileCheck((LABEL_SPELLING,), _run)
