"""What is minimised: `(model, micro-batch) -> Sums`.

An objective returns sums and never means: the engine divides by the weight of the whole step, so that how a step is
cut into micro-batches cannot change its loss (contract 3 in docs/design.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from veneer.data.batches import MicroBatch
from veneer.losses import linear_cross_entropy, scored_cross_entropy
from veneer.model.decoder import plain_weight
from veneer.model.language import LanguageModel
from veneer.products import Scores


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals over one micro-batch."""

    loss: Tensor
    """Sum of the losses, a scalar with a gradient."""
    weight: int
    """What the sum is to be divided by: the number of supervised tokens."""
    metrics: Mapping[str, float] = field(default_factory=dict)


Objective = Callable[[LanguageModel, MicroBatch], Sums]


def supervised_cross_entropy(model: LanguageModel, batch: MicroBatch) -> Sums:
    """Cross-entropy of the supervised tokens of packed documents."""
    device = model.device
    hidden = model.documents(batch.tokens.to(device), batch.positions.to(device), batch.segments, batch.shared)
    return supervised_sums(hidden, model.lm_head, batch, model.spec.scores)


def supervised_sums(hidden: Tensor, head: nn.Module, batch: MicroBatch, scores: Scores) -> Sums:
    """The same from the micro-batch's hidden states, `[tokens, dim]`, a head, and what becomes of its products."""
    rows = hidden.index_select(0, batch.rows.to(hidden.device))
    targets = batch.targets.to(hidden.device)
    weight = plain_weight(head)
    if weight is not None:
        return Sums(linear_cross_entropy(rows, weight, targets, shaping=scores), batch.supervised)
    return Sums(scored_cross_entropy(rows, head, targets, shaping=scores), batch.supervised)


@torch.no_grad()
def mean_loss(
    model: LanguageModel,
    batches: list[MicroBatch],
    objective: Objective = supervised_cross_entropy,
    on_done: Callable[[], None] = lambda: None,
) -> float:
    """The objective's mean over all micro-batches, without gradients (nats per supervised token).

    `on_done` is called after every micro-batch.
    """
    was_training = model.training
    model.eval()
    try:
        sums = []
        for batch in batches:
            sums.append(objective(model, batch))
            on_done()
    finally:
        model.train(was_training)
    return float(sum(float(s.loss) for s in sums)) / max(1, sum(s.weight for s in sums))
