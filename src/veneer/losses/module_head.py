"""Cross-entropy under a head that is a module, chunk by chunk: a head with an adapter, or with trained rows.

The gradients of all that the module trains are sums over rows. `HeadGradients` adds them up chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veneer.losses.scores import chunk_rows, gradient_factor, losses_in_place
from veneer.products import PLAIN_SCORES, Scores


@dataclass(frozen=True, slots=True)
class HeadGradients:
    """Gradients of hidden states and of a head's parameters, as chunks of rows fill them in."""

    hidden: Tensor | None
    """`[rows, dim]`; None if it is not needed."""
    learned: Sequence[Tensor]
    """The parameters that are trained."""
    sums: Sequence[Tensor]
    """The gradient of each of these, in float32 or wider."""
    wide: torch.dtype
    factor: float = 1.0
    """The factor, a power of two, in the gradients of scores that `add` receives."""

    @classmethod
    def zero(
        cls, hidden: Tensor, parameters: Iterable[Tensor], *, needs_hidden: bool, formed_ahead: bool = True
    ) -> HeadGradients:
        """Gradients that no chunk has been added to; `formed_ahead` of backward, and so of the loss' own factor."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sums = [torch.zeros(parameter.shape, dtype=wide, device=parameter.device) for parameter in learned]
        factor = gradient_factor(hidden.dtype) if formed_ahead else 1.0
        return cls(torch.empty_like(hidden) if needs_hidden else None, learned, sums, wide, factor)

    def add(self, rows: slice, some: Tensor, scores: Tensor, grads: Tensor) -> None:
        """Add a chunk of rows.

        Args:
            rows: the places of the chunk.
            some: the chunk's hidden states, a leaf, `[rows, dim]`.
            scores: the head's outputs for them, `[rows, vocab]`.
            grads: the gradient of the scores.
        """
        sources = self.learned if self.hidden is None else [some, *self.learned]
        if not sources:
            return
        found = list(torch.autograd.grad(scores, sources, grads.to(scores.dtype)))
        if self.hidden is not None:
            self.hidden[rows] = found.pop(0)
        for total, part in zip(self.sums, found, strict=True):
            total += part

    def keep(self, ctx: Any, parameters: Sequence[Tensor]) -> None:
        """Keep them in the context of a function of these parameters, for its backward (`scaled_gradients`)."""
        ctx.save_for_backward(self.hidden, *self.sums)
        ctx.wide, ctx.factor = self.wide, self.factor
        ctx.parameters = [(parameter.dtype, parameter.requires_grad) for parameter in parameters]


def scaled_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
    """What `HeadGradients.keep` kept, times the gradient of the sum: that of the hidden states, and of each parameter.

    They are multiplied in float32 or wider, and rounded once.
    """
    hidden, *sums = ctx.saved_tensors
    scale, rest = grad.to(ctx.wide) / ctx.factor, iter(sums)
    first = None if hidden is None else (hidden.to(ctx.wide) * scale).to(hidden.dtype)
    return first, [(next(rest) * scale).to(dtype) if learned else None for dtype, learned in ctx.parameters]


class _ScoredCrossEntropy(torch.autograd.Function):
    """`_LinearCrossEntropy` for logits that a module computes.

    The module's gradients are computed in forward, chunk by chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: nn.Module,
        targets: Tensor,
        chunk: int,
        shaping: Scores,
        *parameters: Tensor,
    ) -> Tensor:
        needs_hidden, wanted = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        gradients = HeadGradients.zero(hidden, parameters, needs_hidden=needs_hidden)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            some = hidden[rows].detach().requires_grad_(needs_hidden)
            with torch.set_grad_enabled(wanted):
                scores = head(some)
            # A copy: what made the scores may have kept them for its own backward.
            grads = scores.detach().clone()
            loss += losses_in_place(grads, targets[rows], gradient=wanted, shaping=shaping).sum(dtype=torch.float64)
            if wanted:
                gradients.add(rows, some, scores, grads)
        gradients.keep(ctx, parameters)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, by_parameter = scaled_gradients(ctx, grads[0])
        return first, None, None, None, None, *by_parameter


def scored_cross_entropy(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """Sum of the cross-entropies of `targets` under softmax(head(hidden)).

    Use it for a head that is more than a product with one weight: a head with an adapter, or with trained rows.

    Args:
        hidden: hidden states that predict a supervised token, `[rows, dim]`.
        head: a module, `[rows, dim]` to `[rows, vocab]`. It is called once for each chunk.
        targets: token ids, int64 `[rows]`.
        chunk: number of rows that are scored at a time; the default suits the device.
        shaping: scale and soft cap of the head's outputs.

    Returns:
        A float64 scalar, 0 if there are no rows.
    """
    if not torch.is_grad_enabled():
        return token_losses(hidden, head, targets, chunk=chunk, shaping=shaping).sum(dtype=torch.float64)
    chunk = chunk or chunk_rows(hidden.device.type)
    result: Tensor = _ScoredCrossEntropy.apply(hidden, head, targets, chunk, shaping, *head.parameters())
    return result


class _ScoredRowLosses(torch.autograd.Function):
    """`_RowLosses` for logits that a module computes."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: nn.Module,
        targets: Tensor,
        chunk: int,
        shaping: Scores,
        again: AbstractContextManager[None],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, targets)
        ctx.head, ctx.chunk, ctx.shaping, ctx.again = head, chunk, shaping, again
        return token_losses(hidden, head, targets, chunk=chunk, shaping=shaping)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets = ctx.saved_tensors
        parameters = list(ctx.head.parameters())
        needs_hidden = ctx.needs_input_grad[0]
        gradients = HeadGradients.zero(hidden, parameters, needs_hidden=needs_hidden, formed_ahead=False)
        with ctx.again:
            for start in range(0, len(targets), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                some = hidden[rows].detach().requires_grad_(needs_hidden)
                with torch.enable_grad():
                    scores = ctx.head(some)
                # A copy: what made the scores may have kept them for its own backward.
                own = scores.detach().to(gradients.wide, copy=True)
                losses_in_place(own, targets[rows], gradient=True, shaping=ctx.shaping)
                own *= grads[0][rows, None].to(gradients.wide)
                gradients.add(rows, some, scores, own)
        rest = iter(gradients.sums)
        by_parameter = [next(rest).to(one.dtype) if one.requires_grad else None for one in parameters]
        return gradients.hidden, None, None, None, None, None, *by_parameter


def scored_row_losses(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    chunk: int | None = None,
    shaping: Scores = PLAIN_SCORES,
    again: AbstractContextManager[None] | None = None,
) -> Tensor:
    """`row_losses` for a head that is more than a product with one weight; see `scored_cross_entropy`.

    Args:
        hidden, head, targets, chunk, shaping: see `scored_cross_entropy`.
        again: a block in which the head draws the same dropout masks again, since backward computes the scores a second
            time. A head without dropout needs none.
    """
    if not torch.is_grad_enabled():
        return token_losses(hidden, head, targets, chunk=chunk, shaping=shaping)
    chunk = chunk or chunk_rows(hidden.device.type)
    settings = chunk, shaping, again or nullcontext()
    result: Tensor = _ScoredRowLosses.apply(hidden, head, targets, *settings, *head.parameters())
    return result


@torch.no_grad()
def token_losses(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    chunk: int | None = None,
    shaping: Scores = PLAIN_SCORES,
) -> Tensor:
    """The cross-entropy of each target, float32 or wider `[rows]`. See `scored_cross_entropy` for the arguments."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    chunk = chunk or chunk_rows(hidden.device.type)
    pieces = [
        losses_in_place(
            head(hidden[start : start + chunk]), targets[start : start + chunk], gradient=False, shaping=shaping
        )
        for start in range(0, len(targets), chunk)
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=wide, device=hidden.device)
