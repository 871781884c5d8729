"""Cross-entropy under a head that is one weight, as most heads are.

For summed losses both gradients are computed in forward, while a chunk's scores are in memory: there are two products
with the head in forward, and none in backward (the idea of Liger's and Apple's fused losses: arXiv:2410.10989,
arXiv:2411.09009).

If a formula uses each row's loss separately (`row_losses`), its weight is known only in backward. The gradient of a
row's hidden state is still computed in forward, and multiplied by the weight in backward. A trained head then needs the
scores of a chunk once more, since its gradient is a sum over rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from veneer.losses.scores import chunk_rows, gradient_factor, losses_in_place
from veneer.padding import pad_to_multiple
from veneer.products import PLAIN_SCORES, Scores, factor_grad, linear, linear_input_grad
from veneer.widening import widened

ADDED_ROWS = 1024
"""The number of rows of the head whose gradients are converted to float32 at a time."""


def _chunks(
    hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, shaping: Scores, *, gradient: bool = False
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For each chunk of rows: the rows, their hidden states and their scores, both padded, and their losses.

    With `gradient` the scores are the gradient of each loss; they are overwritten by the next chunk's.
    """
    # One buffer for all chunks: a fresh one each time costs more in page faults than the pass over it.
    buffer = hidden.new_empty((min(chunk, pad_to_multiple(len(targets))), head.shape[0]))
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
        real = len(targets[rows])
        some = functional.pad(hidden[rows], (0, 0, 0, min(chunk, pad_to_multiple(real)) - real))
        scores = linear(some, head, out=buffer[: len(some)])
        losses = losses_in_place(scores[:real], targets[rows], gradient=gradient, shaping=shaping)
        scores[real:].zero_()
        yield rows, some, scores, losses


def _add_weight_gradient(total: Tensor, scores: Tensor, hidden: Tensor) -> None:
    """total += scoresᵀ hidden, `[vocab, dim]` in float32 or wider; float16 might overflow before it is added."""
    wide = hidden.dtype is torch.float16 or widened(hidden)
    share = factor_grad(scores, hidden, 1.0) if wide else scores.T @ hidden
    # On a CPU torch first converts a whole operand to the other's dtype, which would take as much memory as the head.
    rows = len(total) if total.is_cuda or share.dtype is total.dtype else ADDED_ROWS
    for start in range(0, len(total), rows):
        total[start : start + rows] += share[start : start + rows]


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of −log softmax(h Wᵀ)[target] over rows; both gradients are formed in forward and scaled in backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, shaping: Scores) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = weight.detach().to(hidden.dtype)
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        wanted = needs_hidden or needs_weight
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # The head's gradient is summed over chunks in float32, since bf16 would drop terms below 1/256 of the sum.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs_weight else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for rows, some, scores, losses in _chunks(hidden, head, targets, chunk, shaping, gradient=wanted):
            loss += losses.sum(dtype=torch.float64)
            if grad_hidden is not None:
                grad_hidden[rows] = linear_input_grad(scores, head)[: len(losses)]
            if grad_weight is not None:
                _add_weight_gradient(grad_weight, scores, some)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype, ctx.weight_dtype = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # The step's 1/weight is applied here, in float32 or wider: rounded to bf16 it would be off by up to 1/512.
        wide = torch.promote_types(ctx.hidden_dtype, torch.float32)
        scale = grads[0].to(wide) / gradient_factor(ctx.hidden_dtype)
        return (
            None if grad_hidden is None else (grad_hidden.to(wide) * scale).to(ctx.hidden_dtype),
            None if grad_weight is None else (grad_weight * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """Sum of the cross-entropies of `targets` under softmax(hidden weightᵀ).

    Args:
        hidden: hidden states that predict a supervised token, `[rows, dim]`.
        weight: weight of the head, `[vocab, dim]`.
        targets: token ids, int64 `[rows]`.
        chunk: number of rows that are scored at a time; the default suits the device. It changes memory, and results
            only by the order of float64 sums.
        shaping: scale and soft cap of the products hidden weightᵀ.

    Returns:
        A float64 scalar, 0 if there are no rows.
    """
    chunk = chunk or chunk_rows(hidden.device.type)
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunk, shaping)
    return result


def _weighed(gradients: Tensor, weights: Tensor, wide: torch.dtype) -> Tensor:
    """Rows of gradients, each times its weight: multiplied in float32 or wider, and rounded once."""
    own = weights[:, None].to(wide) / gradient_factor(gradients.dtype)
    return (gradients.to(wide) * own).to(gradients.dtype)


class _RowLosses(torch.autograd.Function):
    """−log softmax(h Wᵀ)[target] of each row; backward computes the scores again, and weighs each row's gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, shaping: Scores) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.shaping = chunk, shaping
        losses = hidden.new_empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for rows, _, _, found in _chunks(hidden, weight.detach().to(hidden.dtype), targets, chunk, shaping):
            losses[rows] = found
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        head = weight.detach().to(hidden.dtype)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs_weight else None
        for rows, some, scores, _ in _chunks(hidden, head, targets, ctx.chunk, ctx.shaping, gradient=True):
            # Rows are multiplied by their weights after the product with the head, and before the other product.
            weights = grads[0][rows]
            real = len(weights)
            if grad_hidden is not None:
                grad_hidden[rows] = _weighed(linear_input_grad(scores, head)[:real], weights, wide)
            if grad_weight is not None:
                _add_weight_gradient(grad_weight, scores[:real], _weighed(some[:real], weights, wide))
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


class _FrozenRowLosses(torch.autograd.Function):
    """−log softmax(h Wᵀ)[target] of each row, where W is not trained. The gradient of each row's hidden state is formed
    in forward; backward multiplies it by the row's weight."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, shaping: Scores) -> Tensor:
        losses = hidden.new_empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        gradients = torch.empty_like(hidden)
        head = weight.detach().to(hidden.dtype)
        for rows, _, scores, found in _chunks(hidden, head, targets, chunk, shaping, gradient=True):
            losses[rows] = found
            gradients[rows] = linear_input_grad(scores, head)[: len(found)]
        ctx.save_for_backward(gradients)
        ctx.chunk = chunk
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradients,) = ctx.saved_tensors
        wide = torch.promote_types(gradients.dtype, torch.float32)
        # In their own memory, since the step's memory is planned for one copy; a second backward is an error of torch.
        for start in range(0, len(gradients), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            gradients[rows] = _weighed(gradients[rows], grads[0][rows], wide)
        return gradients, None, None, None, None


def row_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """The cross-entropy of each target under softmax(hidden weightᵀ), for a formula that uses single losses.

    See `linear_cross_entropy` for the arguments. Only the scores of one chunk are held at a time. If the head is
    trained, they are computed twice, in forward and in backward.

    Returns:
        Losses in nats, `[rows]` in float32 or wider.
    """
    chunk = chunk or chunk_rows(hidden.device.type)
    learned = hidden.requires_grad and torch.is_grad_enabled()
    form = _FrozenRowLosses if learned and not weight.requires_grad else _RowLosses
    result: Tensor = form.apply(hidden, weight, targets, chunk, shaping)
    return result
