"""Losses under a model's head, whatever the head is: one weight, as most are, or a module."""

from __future__ import annotations

from torch import Tensor, nn

from veneer.losses.linear_head import linear_cross_entropy, row_losses
from veneer.losses.module_head import scored_cross_entropy, scored_row_losses
from veneer.model.decoder import plain_weight
from veneer.products import Scores


def cross_entropy(rows: Tensor, head: nn.Module, targets: Tensor, shaping: Scores) -> Tensor:
    """Sum of the cross-entropies of targets, a float64 scalar with a gradient.

    Args:
        rows: hidden states that predict a supervised token, `[rows, dim]`.
        head: scores them, `[rows, vocab_size]`.
        targets: token ids, int64 `[rows]`.
        shaping: scale and soft cap of what the head makes.
    """
    weight = plain_weight(head)
    if weight is None:
        return scored_cross_entropy(rows, head, targets, shaping=shaping)
    return linear_cross_entropy(rows, weight, targets, shaping=shaping)


def target_losses(rows: Tensor, head: nn.Module, targets: Tensor, shaping: Scores) -> Tensor:
    """The cross-entropy of each target, float32 or wider `[rows]`, with a gradient, for a formula that goes on with
    single losses; see `cross_entropy` for the arguments."""
    weight = plain_weight(head)
    if weight is None:
        return scored_row_losses(rows, head, targets, shaping=shaping)
    return row_losses(rows, weight, targets, shaping=shaping)
