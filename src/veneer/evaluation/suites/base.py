"""What a suite is: items that follow from a seed, and a function that says whether an answer is right."""

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
"""The key of an item that holds what its answer is judged by."""


@dataclass(frozen=True, slots=True)
class Item:
    """One task."""

    prompt: str
    answer: str
    """A right answer; another one may be right too."""
    check: Mapping[str, Any]
    """What an answer is judged by."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A generated suite."""

    name: str
    summary: str
    """What its items ask for."""
    make: Callable[[random.Random], Item]
    """Makes one item from a source of random numbers."""
    right: Callable[[str, Mapping[str, Any]], bool]
    """Whether an answer is right, from the answer and the item's check."""

    def items(self, count: int) -> list[Item]:
        """The first items, which are the same on every machine, and no two of which ask the same."""
        found: dict[str, Item] = {}
        number = 0
        while len(found) < count:
            # Each item has a source of random numbers of its own, so that more items begin with the same ones.
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
    """An answer without a fence of three backticks around it, as chat models like to give code and JSON."""
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
