"""The reference's log-probabilities of every answer: computed once before the first step, so that no second model is
held, and none is computed with while the run trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veneer.data.lazy_sequence import items_at
from veneer.data.micro_batches.batches import MicroBatch


@dataclass(frozen=True, slots=True)
class ReferenceTable:
    """Log-probabilities by the place of an example in the run; what has not been computed is NaN."""

    values: NDArray[np.float64]
    """`[examples]`, those that are trained first, and behind them those that are evaluated."""

    @classmethod
    def empty(cls, examples: int) -> ReferenceTable:
        """A table of which nothing is known yet."""
        return cls(np.full(examples, np.nan))

    def of(self, batch: MicroBatch) -> Tensor:
        """The log-probabilities of a micro-batch's documents, float64 `[documents]`."""
        return torch.from_numpy(self.values[list(batch.numbers)])

    def put(self, batch: MicroBatch, found: Tensor) -> None:
        """Fill in what was computed for a micro-batch, `[documents]`. An answer that is known keeps its value: the
        steps that a run is made longer by must not change what the ones before were trained with."""
        computed = found.double().cpu().numpy()
        for place, number in enumerate(batch.numbers):
            if np.isnan(self.values[number]):
                self.values[number] = computed[place]

    def unknown(self, numbers: Iterable[int]) -> int:
        """How many of these examples are not known; one that stands here twice counts once."""
        return int(np.isnan(self.values[[*set(numbers)]]).sum())

    def missing(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of which any answer is not known."""
        return items_at(batches, [place for place, batch in enumerate(batches) if self.unknown(batch.numbers)])
