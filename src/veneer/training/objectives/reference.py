"""The reference's log-probabilities of every answer. They are computed once before the first step, so that no second
model is held or computed with during training."""

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
    """Log-probabilities by the place of an example in the run; NaN for those that have not been computed."""

    values: NDArray[np.float64]
    """The values, `[examples]`: training examples first, then evaluation examples."""

    @classmethod
    def empty(cls, examples: int) -> ReferenceTable:
        """A table that knows no values yet."""
        return cls(np.full(examples, np.nan))

    def of(self, batch: MicroBatch) -> Tensor:
        """The log-probabilities of a micro-batch's documents, float64 `[documents]`."""
        return torch.from_numpy(self.values[list(batch.numbers)])

    def put(self, batch: MicroBatch, found: Tensor) -> None:
        """Store what was computed for a micro-batch, `[documents]`. A known answer keeps its value: steps that make a
        run longer must not change what earlier steps were trained with."""
        computed = found.double().cpu().numpy()
        for place, number in enumerate(batch.numbers):
            if np.isnan(self.values[number]):
                self.values[number] = computed[place]

    def unknown(self, numbers: Iterable[int]) -> int:
        """How many of these examples are not known; duplicates count once."""
        return int(np.isnan(self.values[[*set(numbers)]]).sum())

    def missing(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches with an answer that is not known."""
        return items_at(batches, [place for place, batch in enumerate(batches) if self.unknown(batch.numbers)])
