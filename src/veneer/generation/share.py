"""Which of a task's items this process computes, where several do it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Blank = Callable[[int], Any]
"""A value for the item of a number."""


def nothing(number: int) -> None:
    """None, whatever the number (`Blank`)."""


class Share(Protocol):
    """How the items of a task are divided among processes that all know them."""

    @property
    def first(self) -> bool:
        """Whether this is the process that shows and writes what was found."""
        ...

    def own(self, items: int) -> Sequence[int]:
        """The numbers of the items that this process computes, out of so many."""
        ...

    @property
    def processes(self) -> int:
        """The number of processes on this machine."""
        ...

    def told(self, text: str) -> str:
        """A text of the first process, which all of them get; `text` of another one is for nobody."""
        ...

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """What was found for every item, in order.

        Args:
            found: what this process found for its own: plain values, as JSON has them, with finite numbers.
            items: the number of all items.
            blank: what stands for the item of a number that another process finds, where this one is never told of it:
                a value like those of `found`, of which nothing is made.
        """
        ...


class Whole:
    """One process that does everything (`Share`)."""

    first = True
    processes = 1

    def own(self, items: int) -> Sequence[int]:
        """See `Share`."""
        return range(items)

    def told(self, text: str) -> str:
        """See `Share`."""
        return text

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """See `Share`."""
        return list(found)


WHOLE = Whole()
