"""Supervised fine-tuning: cross-entropy of the supervised tokens.

    L = −Σ log π(y_t | before) / (supervised tokens of the step)

Continued pretraining minimises it too, with plain texts in which every token is supervised. Defaults: the learning rate
is the fit of "LoRA Without Regret" (`veneer.training.recommend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.head import cross_entropy

CROSS_ENTROPY = "cross_entropy"
"""The only term of supervised fine-tuning."""


@dataclass(frozen=True, slots=True)
class SupervisedCrossEntropy:
    """Cross-entropy of the supervised tokens, in nats (`Objective`)."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of supervised tokens."""
        return {CROSS_ENTROPY: sum(batch.supervised for batch in batches)}

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        rows = hidden.index_select(0, sent(batch.rows, hidden.device))
        targets = sent(batch.targets, hidden.device)
        return Sums({CROSS_ENTROPY: cross_entropy(rows, head, targets, shaping)})
