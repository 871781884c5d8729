"""Weighted sources: how often the rows of each stand in an epoch.

Of a source of n rows with weight w, an epoch holds round(w · n) rows: each ⌊w⌋ times, and some once more. Those that
come once more follow a random order of the source, round and round: the next epoch goes on where this one stopped, so
that all rows have come once before any comes a second time. Everything follows from the seed and the epoch's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veneer.data.orders import order

# Another stream than the epochs' orders, which start from 0, and than that of the rows held out.
_STREAM = 2**31 + 1


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """The rows of one source, which stand together among the rows of the run."""

    rows: int
    """The number of examples."""
    weight: float = 1.0

    @property
    def in_epoch(self) -> int:
        """Examples of an epoch, repeats counted: round(weight · rows), and one at least."""
        return max(1, round(self.weight * self.rows)) if self.rows else 0


@dataclass(frozen=True, slots=True)
class RowMixture:
    """The sources of a run, in the order of their rows."""

    sources: Sequence[WeightedRows]

    @property
    def plain(self) -> bool:
        """Whether an epoch holds each row once."""
        return all(source.in_epoch == source.rows for source in self.sources)

    @property
    def in_epoch(self) -> int:
        """Examples of an epoch, repeats counted."""
        return sum(source.in_epoch for source in self.sources)

    def rows(self, epoch: int, seed: int) -> NDArray[np.uint32]:
        """The rows of an epoch in the order of the sources, before they are mixed: [sum of `in_epoch`].

        Args:
            epoch: the number of the epoch, from 0.
            seed: the seed of the run.
        """
        parts: list[NDArray[np.uint32]] = []
        first = 0
        for number, source in enumerate(self.sources):
            if source.rows:
                own = np.arange(first, first + source.rows, dtype=np.uint32)
                whole, more = divmod(source.in_epoch, source.rows)
                parts += [own] * whole
                if more:
                    turns = order(source.rows, seed=seed, epoch=_STREAM + number)
                    places = (epoch * more + np.arange(more, dtype=np.int64)) % source.rows
                    parts.append(own[turns[places]])
            first += source.rows
        return np.concatenate(parts)
