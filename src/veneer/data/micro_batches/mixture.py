"""Weighted sources: how often the rows of each are in an epoch.

An epoch has round(w · n) rows of a source of n rows with weight w: each ⌊w⌋ times, and some once more. Those that come
once more follow a random order of the source, round and round: the next epoch continues where this one stopped, so that
all rows have come once before any comes a second time. Everything follows from the seed and the epoch's number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veneer.data.micro_batches.orders import NUMBERS_AT_ONCE, Indices, order

# A different random stream from those of the epochs' orders, which start from 0, and of the held-out rows.
_STREAM = 2**31 + 1


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """The rows of one source, which are consecutive among the rows of the run."""

    rows: int
    """The number of examples."""
    weight: float = 1.0

    @property
    def in_epoch(self) -> int:
        """The number of examples of an epoch, with repeats: round(weight · rows), and at least one."""
        return max(1, round(self.weight * self.rows)) if self.rows else 0


@dataclass(frozen=True, slots=True)
class RowMixture:
    """The sources of a run, in the order of their rows."""

    sources: Sequence[WeightedRows]

    @property
    def plain(self) -> bool:
        """Whether an epoch has each row once."""
        return all(source.in_epoch == source.rows for source in self.sources)

    @property
    def in_epoch(self) -> int:
        """The number of examples of an epoch, with repeats."""
        return sum(source.in_epoch for source in self.sources)

    @property
    def first_epochs(self) -> int:
        """The number of epochs after which every row has come once."""
        return max((math.ceil(source.rows / source.in_epoch) for source in self.sources if source.rows), default=1)

    def rows(self, epoch: int, seed: int) -> NDArray[np.uint32]:
        """The rows of an epoch in the order of the sources, before they are mixed: [sum of `in_epoch`]. Arguments as
        for `at`."""
        return self.at(np.arange(self.in_epoch, dtype=np.uint32), epoch, seed)

    def at(self, places: Indices, epoch: int, seed: int) -> NDArray[np.uint32]:
        """The rows at some positions of an epoch in the order of the sources.

        Args:
            places: the positions, [any number]; if they are unsigned, the rows overwrite them, to save a second list.
            epoch: the number of the epoch, from 0.
            seed: the seed of the run.
        """
        counts = np.array([source.rows for source in self.sources], dtype=np.int64)
        in_epoch = np.array([source.in_epoch for source in self.sources], dtype=np.int64)
        first, begin = np.cumsum(counts) - counts, np.cumsum(in_epoch) - in_epoch
        # The number of positions of a source with whole passes, and where its others are among those of all sources.
        whole = in_epoch - in_epoch % np.maximum(counts, 1)
        others = np.concatenate([self._once_more(number, epoch, seed) for number in range(len(counts))])
        other = np.cumsum(in_epoch - whole) - (in_epoch - whole)
        found: NDArray[np.uint32] = places.astype(np.uint32, copy=False)
        for start in range(0, len(found), NUMBERS_AT_ONCE):
            window = found[start : start + NUMBERS_AT_ONCE]
            source = np.searchsorted(begin + in_epoch, window, side="right")
            within = window - begin[source]
            more = np.flatnonzero(within >= whole[source])
            window[:] = first[source] + within % counts[source]
            window[more] = others[other[source[more]] + within[more] - whole[source[more]]]
        return found

    def _once_more(self, number: int, epoch: int, seed: int) -> NDArray[np.uint32]:
        """The rows of a source that come once more than the others in an epoch."""
        source = self.sources[number]
        if not source.rows or not (more := source.in_epoch % source.rows):
            return np.empty(0, dtype=np.uint32)
        turns = order(source.rows, seed=seed, epoch=_STREAM + number)
        first = sum(one.rows for one in self.sources[:number])
        places = (epoch * more + np.arange(more, dtype=np.int64)) % source.rows
        return (first + turns[places]).astype(np.uint32)
