"""A sequence whose items are made when they are asked for, so that all of them are never held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """So many items, each of which is made anew whenever it is asked for.

    Args:
        count: the number of items.
        make: makes the item at a place from 0; the same place always gives an equal item.
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
        # A range says what an index or a slice means, and raises IndexError where a list would.
        found = range(self._count)[place]
        return self._make(found) if isinstance(found, int) else items_at(self, found)


def items_at(items: Sequence[Item], places: Sequence[int]) -> LazySequence[Item]:
    """The items at these places, each of which is asked for only when its turn comes."""
    return LazySequence(len(places), lambda number: items[places[number]])
