"""Supervised fine-tuning: cross-entropy of the supervised tokens.

    L = −Σ log π(y_t | before) / (supervised tokens of the step)

It is what continued pretraining minimises too, where rows are plain texts and every token is supervised. Defaults: the
learning rate is the fit of "LoRA Without Regret" (`veneer.training.recommend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from veneer.data.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.losses.linear_head import linear_cross_entropy
from veneer.losses.module_head import scored_cross_entropy
from veneer.model.decoder import plain_weight
from veneer.products import Scores
from veneer.training.objectives.base import Sums

CROSS_ENTROPY = "cross_entropy"
"""The only term of supervised fine-tuning."""


@dataclass(frozen=True, slots=True)
class SupervisedCrossEntropy:
    """Cross-entropy of the supervised tokens, in nats (`Objective`)."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of supervised tokens."""
        return {CROSS_ENTROPY: sum(batch.supervised for batch in batches)}

    def sums(self, hidden: Tensor, head: nn.Module, scores: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        rows = hidden.index_select(0, sent(batch.rows, hidden.device))
        targets = sent(batch.targets, hidden.device)
        weight = plain_weight(head)
        if weight is not None:
            return Sums({CROSS_ENTROPY: linear_cross_entropy(rows, weight, targets, shaping=scores)})
        return Sums({CROSS_ENTROPY: scored_cross_entropy(rows, head, targets, shaping=scores)})
