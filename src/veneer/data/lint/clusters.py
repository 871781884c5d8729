"""Cluster rows that are nearly equal: candidates share a band, and then their exact similarity is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.shingles import Hashes, similarity

Places = NDArray[np.int64]


class Union:
    """Disjoint sets of numbers below `count` (Tarjan's union-find with path halving)."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def root(self, one: int) -> int:
        """The representative of the set of `one`: the smallest number in it."""
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = int(parent[one])
        return one

    def join(self, one: int, other: int) -> None:
        """Join the two sets."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def roots(self) -> Places:
        """The root of every number."""
        return np.array([self.root(one) for one in range(len(self._parent))], dtype=np.int64)


def clusters(bands: Hashes, read: Callable[[int], Hashes], least: float) -> Places:
    """For every row the first row of its cluster; the row itself if it is like no other.

    Rows that share a band are compared with the bucket's first row and with the row before them. Two rows with a
    similarity of at least `least` are in one cluster, and so are rows that are linked by others.

    Args:
        bands: the bands of all rows, [rows, BANDS]; rows of zeros are in no cluster.
        read: gives the shingles of a row.
        least: the similarity of near-duplicates, 0 to 1.
    """
    union = Union(len(bands))
    present = np.flatnonzero(bands.any(axis=1))
    for band in range(bands.shape[1]):
        values = bands[present, band]
        order = np.argsort(values, kind="stable")
        same = np.flatnonzero(np.diff(values[order]) == 0)
        first = -1
        for place in same.tolist():
            before, row = int(present[order[place]]), int(present[order[place + 1]])
            if first < 0 or bands[first, band] != bands[row, band]:
                first = before
            for other in (first, before) if first != before else (first,):
                if union.root(other) == union.root(row):
                    break
                if similarity(read(other), read(row)) >= least:
                    union.join(other, row)
                    break
    return union.roots()
