"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST = 1_500
"""Words and signs that are compared: two such texts take hundredths of a second, and a table of their product. What
comes after them is marked."""

Marked = list[tuple[str, bool]]
"""Pieces of a text in order, each with whether the other text has it too."""


def marked(text: str, other: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, with what both have in order, and what one of them has alone."""
    left, right = _PIECE.findall(text), _PIECE.findall(other)
    same_left, same_right = [False] * len(left), [False] * len(right)
    for i, j in _common(left[:LONGEST], right[:LONGEST]):
        same_left[i] = same_right[j] = True
    return _joined(left, same_left), _joined(right, same_right)


def _common(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """The places in both of the heaviest common subsequence, from the last to the first.

    A word weighs as much as it has letters, white space and signs 1: where all weighed 1, the quotes and commas of two
    JSON objects would be in common before their words. The table is that of every textbook, row by row, so that its
    time is the same whatever the texts repeat.
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
    """Neighbours with the same mark as one piece."""
    found: Marked = []
    for piece, mark in zip(pieces, same, strict=True):
        if found and found[-1][1] is mark:
            found[-1] = (found[-1][0] + piece, mark)
        else:
            found.append((piece, mark))
    return found
