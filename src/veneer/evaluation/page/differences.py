"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST = 1_500
"""Words and signs that are compared; the matcher's time grows with their square. What comes after them is marked."""

Marked = list[tuple[str, bool]]
"""Pieces of a text in order, each with whether the other text has it too."""


def marked(text: str, other: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, with what both have in order, and what one of them has alone."""
    left, right = _PIECE.findall(text), _PIECE.findall(other)
    same_left, same_right = [False] * len(left), [False] * len(right)
    matcher = SequenceMatcher(a=left[:LONGEST], b=right[:LONGEST], autojunk=False)
    for block in matcher.get_matching_blocks():
        same_left[block.a : block.a + block.size] = [True] * block.size
        same_right[block.b : block.b + block.size] = [True] * block.size
    return _joined(left, same_left), _joined(right, same_right)


def _joined(pieces: list[str], same: list[bool]) -> Marked:
    """Neighbours with the same mark as one piece."""
    found: Marked = []
    for piece, mark in zip(pieces, same, strict=True):
        if found and found[-1][1] is mark:
            found[-1] = (found[-1][0] + piece, mark)
        else:
            found.append((piece, mark))
    return found
