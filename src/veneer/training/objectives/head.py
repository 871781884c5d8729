"""Losses of a model's head, which is a single weight, as most are, or a module."""

from __future__ import annotations

from torch import Tensor, nn

from veneer.losses.linear_head import linear_cross_entropy, row_losses
from veneer.losses.module_head import scored_cross_entropy, scored_row_losses
from veneer.model.decoder import plain_weight
from veneer.model.recompute import Recomputation
from veneer.products import Scores


def cross_entropy(rows: Tensor, head: nn.Module, targets: Tensor, shaping: Scores) -> Tensor:
    """The sum of the cross-entropies of targets, a float64 scalar with a gradient.

    Args:
        rows: hidden states that predict a supervised token, `[rows, dim]`.
        head: maps `rows` to scores, `[rows, vocab_size]`.
        targets: token ids, int64 `[rows]`.
        shaping: the scale and soft cap of the head's scores.
    """
    weight = plain_weight(head)
    if weight is None:
        return scored_cross_entropy(rows, head, targets, shaping=shaping)
    return linear_cross_entropy(rows, weight, targets, shaping=shaping)


def target_losses(rows: Tensor, head: nn.Module, targets: Tensor, shaping: Scores) -> Tensor:
    """The cross-entropy of each target, float32 or wider `[rows]`, with a gradient, for formulas that need the single
    losses. The arguments are those of `cross_entropy`."""
    weight = plain_weight(head)
    if weight is None:
        how = Recomputation.of(head)
        return scored_row_losses(rows, head, targets, shaping=shaping, again=how.rewound(how.state()))
    return row_losses(rows, weight, targets, shaping=shaping)
