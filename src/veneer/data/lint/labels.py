"""Short answers as they are written, with their number and rows: what is needed to tell labels from misspellings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST_LABEL_CHARS = 40
"""The most characters of an answer that may be a label."""
MOST_LABELS = 20_000
"""The number of different answers beyond which they are not labels."""
ROWS_PER_LABEL = 20
"""The number of rows that are kept for an answer."""


@dataclass(slots=True)
class Spelling:
    """One way in which an answer is written."""

    count: int = 0
    rows: list[int] = field(default_factory=list)
    """The first rows that have it."""


@dataclass(slots=True)
class Labels:
    """The answers of the training rows, as long as there are few and short ones."""

    spellings: dict[str, Spelling] = field(default_factory=dict)
    long: int = 0
    """Marks an answer that is too long for a label."""
    overflown: bool = False
    """Whether there were too many different answers to keep."""

    def add(self, first: int, answers: Sequence[str | None]) -> None:
        """Add the answers of rows in order; None means an answer that is too long, or a row that cannot be used."""
        for row, answer in enumerate(answers, start=first):
            if answer is None:
                self.long += 1
            elif answer in self.spellings or len(self.spellings) < MOST_LABELS:
                spelling = self.spellings.setdefault(answer, Spelling())
                spelling.count += 1
                if len(spelling.rows) < ROWS_PER_LABEL:
                    spelling.rows.append(row)
            else:
                self.overflown = True
