"""Which of a task's items this process computes, if several processes share the task."""

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
        """Whether this process shows and writes the results."""
        ...

    def own(self, items: int) -> Sequence[int]:
        """The numbers of the items that this process computes, out of this many."""
        ...

    @property
    def processes(self) -> int:
        """The number of processes on this machine."""
        ...

    def from_first(self, make: Callable[[], Any]) -> Any:
        """The result of `make` in the first process, in every process; the others do not call it. It is a plain JSON
        value, with finite numbers."""
        ...

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """The results for every item, in order.

        Args:
            found: this process's own results: plain JSON values, with finite numbers.
            items: the number of all items.
            blank: makes the placeholder for an item of another process, by its number, if this process never gets the
                result: a value like those of `found`, which is not used.
        """
        ...


class WholeShare:
    """One process that does everything (`Share`)."""

    first = True
    processes = 1

    def own(self, items: int) -> Sequence[int]:
        """See `Share`."""
        return range(items)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """See `Share`."""
        return make()

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """See `Share`."""
        return list(found)


WHOLE_SHARE = WholeShare()
