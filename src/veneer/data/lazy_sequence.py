"""A sequence that makes its items on request, so that they are never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """A sequence of `count` items, each of which is made again at every request.

    Args:
        count: the number of items.
        make: makes the item at an index from 0; an index always gives equal items.
    """

    def __init__(self, count: int, make: Callable[[int], Item]):
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> LazySequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | LazySequence[Item]:
        # A range interprets an index or a slice, and raises IndexError where a list would.
        found = range(self._count)[place]
        return self._make(found) if isinstance(found, int) else items_at(self, found)


def items_at(items: Sequence[Item], places: Sequence[int]) -> LazySequence[Item]:
    """The items at these places, each requested only when it is needed."""
    return LazySequence(len(places), lambda number: items[places[number]])
