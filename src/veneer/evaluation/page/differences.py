"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST = 1_500
"""The number of words and signs that are compared. Two such texts take hundredths of a second, and a table of the
product of their lengths. Everything after them is marked as different."""

Marked = list[tuple[str, bool]]
"""The pieces of a text in order, each with whether the other text has it too."""


def marked(text: str, other: str) -> tuple[Marked, Marked]:
    """Both texts in pieces: those that both have, in order, and those that only one has."""
    left, right = _PIECE.findall(text), _PIECE.findall(other)
    same_left, same_right = [False] * len(left), [False] * len(right)
    for i, j in _common(left[:LONGEST], right[:LONGEST]):
        same_left[i] = same_right[j] = True
    return _joined(left, same_left), _joined(right, same_right)


def _common(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """The positions in both texts of the heaviest common subsequence, from the last to the first.

    The weight of a word is its number of letters; white space and signs weigh 1. If everything weighed 1, two JSON
    objects would have their quotes and commas in common rather than their words. The table is the usual one of
    dynamic programming, filled row by row, so its time does not depend on what the texts repeat.
    """
    numbers: dict[str, int] = {}
    first, second = (np.array([numbers.setdefault(one, len(numbers)) for one in side]) for side in (left, right))
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=np.int32)
    for i, piece in enumerate(left):
        weight = 1 if piece.isspace() else len(piece)
        taken = table[i, :-1] + weight * (second == first[i])
        np.maximum.accumulate(np.maximum(table[i, 1:], taken), out=table[i + 1, 1:])
    found, i, j = list[tuple[int, int]](), len(left), len(right)
    while i and j:
        if table[i, j] == table[i - 1, j]:
            i -= 1
        elif table[i, j] == table[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found


def _joined(pieces: list[str], same: list[bool]) -> Marked:
    """The pieces with neighbours of the same mark joined into one."""
    found: Marked = []
    for piece, mark in zip(pieces, same, strict=True):
        if found and found[-1][1] is mark:
            found[-1] = (found[-1][0] + piece, mark)
        else:
            found.append((piece, mark))
    return found
