"""What is known of a step's sampled answers, by their places: the objective reads it for each document."""

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
    """The answers of the current step. The table is filled before the step's first backward pass, and the next step
    replaces its content.

    A micro-batch whose documents have no numbers holds supposed answers (a rehearsal): each has the advantage 1.
    """

    advantages: Floats = field(default_factory=lambda: np.zeros(0))
    """The advantages, `[answers]`."""
    counted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Whether an answer is in the loss and its metrics, `[answers]`."""
    rewards: Floats = field(default_factory=lambda: np.zeros(0))
    """The weighted sum of an answer's rewards, `[answers]`; NaN if it has none."""
    sampled: Sequence[Floats] | None = None
    """The sampler's log-probability of each token of each answer, NaN where it reported none; None if they belong to
    another temperature than the policy's."""
    old: list[Floats] | None = None
    """The policy's log-probabilities when the answers were sampled; None if the policy has not changed since, so that
    its current ones are the same."""
    reference: list[Floats] | None = None
    """The reference's log-probabilities; None without a reference."""
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    """What is known of each answer, by name, `[answers]`; NaN for answers without a value, which enter no mean."""

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
        """The given values of each target of a micro-batch, float64 `[targets]`; None if there are none."""
        if known is None or not batch.numbers:
            return None
        return torch.from_numpy(np.concatenate([known[number] for number in batch.numbers]))
