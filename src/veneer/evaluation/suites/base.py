"""A suite: items that follow from a seed, and a function that says whether an answer is right."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import mean_of

MOST_ITEMS = 10_000
"""The number of items that a suite has."""
CHECK = "check"
"""The key of an item that holds the values for checking its answer."""


@dataclass(frozen=True, slots=True)
class Item:
    """One task."""

    prompt: str
    answer: str
    """A right answer; others may be right too."""
    check: Mapping[str, Any]
    """The values by which an answer is checked."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A generated suite."""

    name: str
    summary: str
    """What the items of the suite ask for."""
    make: Callable[[random.Random], Item]
    """Makes one item from a source of random numbers."""
    right: Callable[[str, Mapping[str, Any]], bool]
    """Whether an answer is right, given the answer and the item's check."""

    def items(self, count: int) -> list[Item]:
        """The first items. They are the same on every machine, and no two of them ask the same."""
        found: dict[str, Item] = {}
        number = 0
        while len(found) < count:
            # Each item has its own source of random numbers, so that a longer suite begins with the same items.
            item = self.make(random.Random(f"veneer {self.name} {number}"))
            found.setdefault(item.prompt, item)
            number += 1
        return list(found.values())

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The first items as rows of a data file."""
        return [{"prompt": one.prompt, "completion": one.answer, CHECK: dict(one.check)} for one in self.items(count)]

    def metric(self, rows: Sequence[AnsweredRow]) -> TaskResult:
        """The share of right answers, under the name of the suite."""
        found = mean_of(self.name, [float(self.right(row.answer, row.row[CHECK])) for row in rows])
        return TaskResult([] if found is None else [found])


def unfenced(text: str) -> str:
    """An answer without the fence of three backticks that chat models often put around code and JSON."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.split("\n", 1)[1].removesuffix("```").strip()
    return text


NAMES = ("Anna", "Ben", "Chloe", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona")
NOUNS = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pencil", "rocket", "saddle", "tunnel", "window",
)  # fmt: skip
CITIES = ("Berlin", "Cairo", "Denver", "Lagos", "Lima", "Madrid", "Oslo", "Paris", "Quito", "Seoul", "Tokyo", "Vienna")
