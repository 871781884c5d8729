"""What is known of the answers that a step has sampled, by their places: what the objective reads of each document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veneer.data.micro_batches.batches import MicroBatch

Floats = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class RolloutTable:
    """The answers of the step under way. It is filled before the step's first backward, and replaced by the next.

    A micro-batch whose documents have no numbers stands for answers that are only supposed (a rehearsal): each has the
    advantage 1.
    """

    advantages: Floats = field(default_factory=lambda: np.zeros(0))
    """`[answers]`."""
    counted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Whether an answer is in the loss and its metrics, `[answers]`."""
    rewards: Floats = field(default_factory=lambda: np.zeros(0))
    """The weighted sum of an answer's rewards, `[answers]`; NaN where it has none."""
    sampled: Sequence[Floats] | None = None
    """The sampler's log-probability of each token of each answer, NaN where it told none; None where they are of
    another temperature than the policy's."""
    old: list[Floats] | None = None
    """The policy's log-probabilities when the answers were sampled; None where the policy is still that one, so that
    its own stand for them."""
    reference: list[Floats] | None = None
    """The reference's; None where none is compared."""
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    """What is known of each answer, by name, `[answers]`; NaN for those that have none, which are in no mean."""

    def advantages_of(self, batch: MicroBatch) -> Tensor:
        """The advantage of each document, float64 `[documents]`."""
        if not batch.numbers:
            return torch.ones(len(batch.counts), dtype=torch.float64)
        return torch.from_numpy(self.advantages[list(batch.numbers)])

    def counted_of(self, batch: MicroBatch) -> Tensor:
        """1 for each document that counts and 0 for the others, float64 `[documents]`."""
        if not batch.numbers:
            return torch.ones(len(batch.counts), dtype=torch.float64)
        return torch.from_numpy(self.counted[list(batch.numbers)].astype(np.float64))

    def tokens_of(self, known: Sequence[Floats] | None, batch: MicroBatch) -> Tensor | None:
        """What is known of each target of a micro-batch, float64 `[targets]`; None where nothing is."""
        if known is None or not batch.numbers:
            return None
        return torch.from_numpy(np.concatenate([known[number] for number in batch.numbers]))
