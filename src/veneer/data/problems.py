"""Rows that cannot be used, in the words of an error message: grouped by cause, with counts and the first lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from veneer.errors import listing
from veneer.text.counting import count_of

SHOWN_LINES = 3
"""The number of lines that are named for each cause."""
MAX_REASON_CHARS = 600
"""The most characters of a reason that are shown; it may contain text of data files and chat templates."""

_VARYING = re.compile(r"\d+|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One row that cannot be used."""

    where: str
    """The file and line of the row."""
    reason: str

    def __str__(self) -> str:
        """The problem on one line."""
        return f"{self.where}: {printable(self.reason)}"


def grouped(problems: Sequence[RowProblem]) -> str:
    """The problems as an indented list, one line a cause.

    Reasons that differ only in numbers and quoted values count as one cause; the first of them is shown.
    """
    causes: dict[str, list[RowProblem]] = {}
    for problem in problems:
        causes.setdefault(_VARYING.sub("", problem.reason), []).append(problem)
    return listing(_line(group) for group in sorted(causes.values(), key=len, reverse=True))


def _line(group: Sequence[RowProblem]) -> str:
    first = group[0]
    if len(group) == 1:
        return str(first)
    more = f" and {len(group) - SHOWN_LINES:,} more" if len(group) > SHOWN_LINES else ""
    where = ", ".join(problem.where for problem in group[:SHOWN_LINES])
    return f"{first}\n    ({count_of(len(group), 'row')}: {where}{more})"


def printable(text: str) -> str:
    """A text that is safe to show: shortened, and with its control characters written as escapes."""
    if len(text) > MAX_REASON_CHARS:
        text = f"{text[: MAX_REASON_CHARS // 2]} … {text[-MAX_REASON_CHARS // 2 :]}"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )
