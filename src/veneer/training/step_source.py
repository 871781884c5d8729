"""The rows of every step: the protocol of their source, and the rows of one step for computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from veneer.data.micro_batches.batches import MicroBatch
from veneer.training.memory_use.out_of_memory import MemoryFault
from veneer.training.objectives.base import Sums


class SourceStopped(Exception):
    """A signal came while the rows of a step were made."""


class StepSource(Protocol):
    """The rows of every step, which depend on its number alone, or are sampled from the weights before it."""

    def lanes(self, step: int, most: int | None = None) -> Sequence[Sequence[MicroBatch]]:
        """The 1-based step's rows, packed, by lane. `most` is the most tokens of a micro-batch, if it differs from the
        run's.

        Raises:
            SourceStopped: a signal came.
        """
        ...

    def epoch(self, step: int) -> float:
        """The number of passes over the data after the step."""
        ...


@dataclass(frozen=True, slots=True)
class StepBatches:
    """The rows of one step."""

    number: int
    """The step's number; the first is 1."""
    lanes: Sequence[Sequence[MicroBatch]]
    """The micro-batches of each lane; a lane may have none."""
    weights: Mapping[str, float]
    """What the sums of the objective are divided by."""
    scale: int = 1
    """The factor of the loss, by which gradients are divided afterwards (`veneer.training.loss_scale`)."""
    fault: MemoryFault | None = None
    """The micro-batch that was too large for what the objective computes before the first one; if there is one, none of
    them is computed."""

    def loss(self, sums: Sums) -> Tensor:
        """The number that the backward pass of a micro-batch starts from."""
        loss = sums.loss(self.weights)
        return loss if self.scale == 1 else loss * self.scale

    @property
    def batches(self) -> list[MicroBatch]:
        """The micro-batches of all lanes."""
        return [batch for lane in self.lanes for batch in lane]
