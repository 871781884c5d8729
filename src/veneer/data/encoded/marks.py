"""Marks on very many numbers, one bit each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

GROUP_NUMBERS = 4096
"""The numbers whose marks are counted together, so that the n-th marked one is found without counting all before it."""


class Marks:
    """Whether each of the numbers below `count` is marked; at first none is.

    Args:
        count: the number of numbers.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._bits = np.zeros(-(-count // 8), dtype=np.uint8)
        self._before: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, mask: Mask) -> Marks:
        """The marks of a mask, bool [count]."""
        marks = cls(len(mask))
        marks.put(0, mask)
        return marks

    def __len__(self) -> int:
        return self._count

    def put(self, start: int, mask: Mask) -> None:
        """Set the marks from the number `start` on."""
        first, last = start // 8, -(-(start + len(mask)) // 8)
        bits = np.unpackbits(self._bits[first:last])
        bits[start - 8 * first : start - 8 * first + len(mask)] = mask
        self._bits[first:last] = np.packbits(bits)
        self._before = None

    def get(self, start: int, end: int) -> Mask:
        """The marks of the numbers from `start` to `end`, bool [end - start]."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-end // 8)])
        return bits[start - 8 * first : end - 8 * first].astype(np.bool_)

    def nth(self, place: int) -> int:
        """The number that is marked after `place` others.

        Raises:
            IndexError: fewer numbers are marked.
        """
        if self._before is None:
            starts = range(0, self._count, GROUP_NUMBERS)
            counts = [int(self.get(start, min(start + GROUP_NUMBERS, self._count)).sum()) for start in starts]
            self._before = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        if not 0 <= place < self._before[-1]:
            raise IndexError(f"mark {place} of {self._before[-1]}")
        group = int(np.searchsorted(self._before, place, side="right")) - 1
        marked = np.flatnonzero(self.get(group * GROUP_NUMBERS, min((group + 1) * GROUP_NUMBERS, self._count)))
        return group * GROUP_NUMBERS + int(marked[place - int(self._before[group])])
