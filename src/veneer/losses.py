"""Cross-entropy on the supervised positions, without ever holding all logits.

The head is the widest product of a small model (49,152 scores a token for SmolLM2), so it is computed for the
supervised rows only, in chunks. The gradient of each chunk is computed while its scores are still in memory: there are
two products with the head in forward, and none in backward (the idea of Liger's and Apple's fused losses:
arXiv:2410.10989, arXiv:2411.09009).

Where each row's loss goes into a formula of its own (`row_losses`), its weight is known only in backward. The gradient
of a row's hidden state is formed in forward all the same, and weighed in backward. A head that is trained needs the
scores of a chunk once more then, since its gradient is a sum over rows. All logits are never held there either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.gpu.dispatch import triton_kernels
from veneer.native.arguments import usable
from veneer.native.library import kernels
from veneer.padding import pad_to_multiple
from veneer.products import PLAIN_SCORES, Scores, inputs, outer, outputs

CHUNK_ROWS = 256
"""Number of rows that are scored at a time on a CPU. 256 × 49,152 bfloat16 scores are 24 MB."""
DEVICE_CHUNK_ROWS = 1024
"""Number of rows that are scored at a time on a GPU. With fewer, reading the head takes longer than the product: a card
does some hundred operations for each byte that it reads. 1,024 × 128,256 bfloat16 scores are 263 MB."""


FLOAT16_FACTOR = 1024.0
"""A power of two by which gradients of float16 scores are multiplied until they are float32. Unmultiplied, those of a
token with a loss below 6e-5 would lose digits, and below 6e-8 vanish. The product with the head has room: it overflows
where the head has weights above 30."""


def _factor(dtype: torch.dtype) -> float:
    """The factor of the gradients of scores in a dtype, by which those of hidden states are divided."""
    return FLOAT16_FACTOR if dtype is torch.float16 else 1.0


def chunk_rows(device: str) -> int:
    """Number of rows that are scored at a time on a kind of device, `cpu` or another."""
    return CHUNK_ROWS if device == "cpu" else DEVICE_CHUNK_ROWS


def _losses_in_place(scores: Tensor, targets: Tensor, *, gradient: bool, shaping: Scores = PLAIN_SCORES) -> Tensor:
    """Losses `[rows]`, float32 or wider, of contiguous `scores` `[rows, vocab]` after scaling and capping by `shaping`.

    `scores` is overwritten; with `gradient` it becomes d(sum of losses)/d(scores), times the `_factor` of its dtype.
    The compiled kernels read bfloat16 scores as they are; torch's own operations work on a float32 copy.
    """
    if not shaping.plain:
        return _shaped_losses(scores, targets, gradient=gradient, shaping=shaping)
    if scores.is_cuda:
        triton = triton_kernels(scores)
        if triton is not None and targets.is_contiguous():
            return triton.cross_entropy_in_place(scores, targets, gradient=gradient, factor=_factor(scores.dtype))
    native = kernels()
    if native is not None and usable(scores) and targets.is_contiguous():
        return native.cross_entropy(scores, targets, gradient=gradient)
    losses, grads = losses_and_grads_reference(scores.to(torch.promote_types(scores.dtype, torch.float32)), targets)
    factor = _factor(scores.dtype)
    scores.copy_(grads if factor == 1.0 else grads.mul_(factor))
    return losses


def _shaped_losses(scores: Tensor, targets: Tensor, *, gradient: bool, shaping: Scores) -> Tensor:
    """`_losses_in_place` for scores that are scaled or capped first, in float32 or wider."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32), copy=True).mul_(shaping.scale)
    share = None
    if shaping.softcap is not None:
        share = wide.div_(shaping.softcap).tanh_()
        wide = share * shaping.softcap
    losses = _losses_in_place(wide, targets, gradient=gradient)
    if gradient:
        # d(c · tanh(s·x/c))/dx = s · (1 − tanh²)
        wide.mul_(shaping.scale * _factor(scores.dtype))
        scores.copy_(wide if share is None else wide.sub_(share.square_().mul_(wide)))
    return losses


def losses_and_grads_reference(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses `[rows]` and d(sum of losses)/d(scores) `[rows, vocab]`, float32 or wider; `scores` is overwritten.

    With e_j = exp(s_j − max) and `rest` the sum over j ≠ target, the target's gradient is −rest/total. Computed
    as p − 1, it would vanish once the target leads by 16.6 (p rounds to 1 in float32) and the loss with it.
    """
    column = targets[:, None]
    shifted = scores.sub_(scores.amax(-1, keepdim=True))
    target_shifted = shifted.gather(1, column)
    exponentials = shifted.exp_()
    target_exponential = exponentials.gather(1, column)
    rest = exponentials.scatter_(1, column, 0.0).sum(-1, keepdim=True)
    total = rest + target_exponential
    # Where the target is unlikely its exponential may underflow; there log(total) − shifted is the accurate form.
    leading = torch.log1p(rest / target_exponential.clamp_min(torch.finfo(scores.dtype).tiny))
    trailing = total.log() - target_shifted
    losses = torch.where(target_exponential > rest, leading, trailing)[:, 0]
    grads = exponentials.div_(total).scatter_(1, column, -(rest / total))
    return losses, grads


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of −log softmax(h Wᵀ)[target] over rows; both gradients are formed in forward and scaled in backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, shaping: Scores) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = weight.detach().to(hidden.dtype)
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        wanted = needs_hidden or needs_weight
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # The head's gradient sums over chunks: in float32, since bf16 would drop what is below 1/256 of the sum.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs_weight else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        # One buffer for all chunks: a fresh one each time costs more in page faults than the pass over it.
        buffer = hidden.new_empty((min(chunk, pad_to_multiple(len(targets))), head.shape[0]))
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            real = len(targets[rows])
            some = functional.pad(hidden[rows], (0, 0, 0, min(chunk, pad_to_multiple(real)) - real))
            scores = outputs(some, head, out=buffer[: len(some)])
            losses = _losses_in_place(scores[:real], targets[rows], gradient=wanted, shaping=shaping)
            loss += losses.sum(dtype=torch.float64)
            scores[real:].zero_()
            if grad_hidden is not None:
                grad_hidden[rows] = inputs(scores, head)[:real]
            if grad_weight is not None:
                grad_weight += _weight_gradient(scores, some)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype, ctx.weight_dtype = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # The step's 1/weight comes in here: multiplied in float32 or wider, since rounded to bf16 by itself it would
        # be off by as much as 1/512.
        wide = torch.promote_types(ctx.hidden_dtype, torch.float32)
        scale = grads[0].to(wide) / _factor(ctx.hidden_dtype)
        return (
            None if grad_hidden is None else (grad_hidden.to(wide) * scale).to(ctx.hidden_dtype),
            None if grad_weight is None else (grad_weight * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def _weight_gradient(scores: Tensor, hidden: Tensor) -> Tensor:
    """scoresᵀ hidden, `[vocab, dim]`, to be added to float32; in float32 already where float16 might overflow."""
    return outer(scores, hidden, 1.0) if hidden.dtype is torch.float16 else scores.T @ hidden


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """Sum of the cross-entropies of `targets` under softmax(hidden weightᵀ).

    Args:
        hidden: hidden states that predict a supervised token, `[rows, dim]`.
        weight: weight of the head, `[vocab, dim]`.
        targets: token ids, int64 `[rows]`.
        chunk: number of rows that are scored at a time; by default as suits the device. It changes memory, and results
            only in the order of float64 sums.
        shaping: scale and soft cap of the products hidden weightᵀ.

    Returns:
        A float64 scalar, 0 where there is no row.
    """
    chunk = chunk or chunk_rows(hidden.device.type)
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunk, shaping)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, slots=True)
class HeadGradients:
    """Gradients of hidden states and of a head's parameters, as chunks of rows fill them in."""

    hidden: Tensor | None
    """`[rows, dim]`; None where it is not wanted."""
    learned: Sequence[Tensor]
    """The parameters that are trained."""
    sums: Sequence[Tensor]
    """The gradient of each of these, in float32 or wider."""
    wide: torch.dtype
    factor: float = 1.0
    """What the gradients of scores are multiplied by, as they are given to `add`: a power of two."""

    @classmethod
    def zero(
        cls, hidden: Tensor, parameters: Iterable[Tensor], *, needs_hidden: bool, formed_ahead: bool = True
    ) -> HeadGradients:
        """Gradients that no chunk has been added to; `formed_ahead` of backward, and so of the loss' own factor."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sums = [torch.zeros(parameter.shape, dtype=wide, device=parameter.device) for parameter in learned]
        factor = _factor(hidden.dtype) if formed_ahead else 1.0
        return cls(torch.empty_like(hidden) if needs_hidden else None, learned, sums, wide, factor)

    def add(self, rows: slice, some: Tensor, scores: Tensor, grads: Tensor) -> None:
        """Add a chunk of rows.

        Args:
            rows: the places of the chunk.
            some: its hidden states, a leaf, `[rows, dim]`.
            scores: what the head made of them, `[rows, vocab]`.
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
    """`_LinearCrossEntropy` for logits that a module makes.

    The module's gradients are formed in forward, chunk by chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        score: nn.Module,
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
                scores = score(some)
            # A copy: what made the scores may have kept them for its own backward.
            grads = scores.detach().clone()
            loss += _losses_in_place(grads, targets[rows], gradient=wanted, shaping=shaping).sum(dtype=torch.float64)
            if wanted:
                gradients.add(rows, some, scores, grads)
        gradients.keep(ctx, parameters)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, by_parameter = scaled_gradients(ctx, grads[0])
        return first, None, None, None, None, *by_parameter


def scored_cross_entropy(
    hidden: Tensor, score: nn.Module, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """Sum of the cross-entropies of `targets` under softmax(score(hidden)).

    Use it for a head that is more than a product with one weight: a head with an adapter, or with trained rows.

    Args:
        hidden: hidden states that predict a supervised token, `[rows, dim]`.
        score: the head, `[rows, dim]` to `[rows, vocab]`. It is called once for each chunk.
        targets: token ids, int64 `[rows]`.
        chunk: number of rows that are scored at a time; by default as suits the device.
        shaping: scale and soft cap of the head's outputs.

    Returns:
        A float64 scalar, 0 where there is no row.
    """
    if not torch.is_grad_enabled():
        return token_losses(hidden, score, targets, chunk=chunk, shaping=shaping).sum(dtype=torch.float64)
    chunk = chunk or chunk_rows(hidden.device.type)
    result: Tensor = _ScoredCrossEntropy.apply(hidden, score, targets, chunk, shaping, *score.parameters())  # type: ignore[no-untyped-call]
    return result


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
            gradients[rows] = inputs(scores, head)[: len(found)]
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


def _weighed(gradients: Tensor, weights: Tensor, wide: torch.dtype) -> Tensor:
    """Rows of gradients, each times its weight: multiplied in float32 or wider, and rounded once."""
    own = weights[:, None].to(wide) / _factor(gradients.dtype)
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
            # Rows are weighed behind the product with the head, and before the other.
            weights = grads[0][rows]
            real = len(weights)
            if grad_hidden is not None:
                grad_hidden[rows] = _weighed(inputs(scores, head)[:real], weights, wide)
            if grad_weight is not None:
                grad_weight += _weight_gradient(scores[:real], _weighed(some[:real], weights, wide))
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _chunks(
    hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, shaping: Scores, *, gradient: bool = False
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For each chunk of rows: the rows, their hidden states and their scores, both padded, and their losses.

    With `gradient` the scores are the gradient of each loss; they are overwritten by the next chunk's.
    """
    buffer = hidden.new_empty((min(chunk, pad_to_multiple(len(targets))), head.shape[0]))
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
        real = len(targets[rows])
        some = functional.pad(hidden[rows], (0, 0, 0, min(chunk, pad_to_multiple(real)) - real))
        scores = outputs(some, head, out=buffer[: len(some)])
        losses = _losses_in_place(scores[:real], targets[rows], gradient=gradient, shaping=shaping)
        scores[real:].zero_()
        yield rows, some, scores, losses


class _ScoredRowLosses(torch.autograd.Function):
    """`_RowLosses` for logits that a module makes."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        score: nn.Module,
        targets: Tensor,
        chunk: int,
        shaping: Scores,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, targets)
        ctx.score, ctx.chunk, ctx.shaping = score, chunk, shaping
        return token_losses(hidden, score, targets, chunk=chunk, shaping=shaping)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets = ctx.saved_tensors
        parameters = list(ctx.score.parameters())
        needs_hidden = ctx.needs_input_grad[0]
        gradients = HeadGradients.zero(hidden, parameters, needs_hidden=needs_hidden, formed_ahead=False)
        for start in range(0, len(targets), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            some = hidden[rows].detach().requires_grad_(needs_hidden)
            with torch.enable_grad():
                scores = ctx.score(some)
            # A copy: what made the scores may have kept them for its own backward.
            own = scores.detach().to(gradients.wide, copy=True)
            _losses_in_place(own, targets[rows], gradient=True, shaping=ctx.shaping)
            own *= grads[0][rows, None].to(gradients.wide)
            gradients.add(rows, some, scores, own)
        rest = iter(gradients.sums)
        by_parameter = [next(rest).to(one.dtype) if one.requires_grad else None for one in parameters]
        return gradients.hidden, None, None, None, None, *by_parameter


def row_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """The cross-entropy of each target under softmax(hidden weightᵀ), for a formula that goes on with single losses.

    See `linear_cross_entropy` for the arguments. No more scores are held than those of a chunk. Where the head is
    trained they are computed twice, in forward and in backward.

    Returns:
        Losses in nats, `[rows]` in float32 or wider.
    """
    chunk = chunk or chunk_rows(hidden.device.type)
    learned = hidden.requires_grad and torch.is_grad_enabled()
    form = _FrozenRowLosses if learned and not weight.requires_grad else _RowLosses
    result: Tensor = form.apply(hidden, weight, targets, chunk, shaping)  # type: ignore[no-untyped-call]
    return result


def scored_row_losses(
    hidden: Tensor, score: nn.Module, targets: Tensor, *, chunk: int | None = None, shaping: Scores = PLAIN_SCORES
) -> Tensor:
    """`row_losses` for a head that is more than a product with one weight; see `scored_cross_entropy`."""
    if not torch.is_grad_enabled():
        return token_losses(hidden, score, targets, chunk=chunk, shaping=shaping)
    chunk = chunk or chunk_rows(hidden.device.type)
    result: Tensor = _ScoredRowLosses.apply(hidden, score, targets, chunk, shaping, *score.parameters())  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def token_losses(
    hidden: Tensor,
    score: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    chunk: int | None = None,
    shaping: Scores = PLAIN_SCORES,
) -> Tensor:
    """The cross-entropy of each target, float32 or wider `[rows]`. See `scored_cross_entropy` for the arguments."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    chunk = chunk or chunk_rows(hidden.device.type)
    pieces = [
        _losses_in_place(
            score(hidden[start : start + chunk]), targets[start : start + chunk], gradient=False, shaping=shaping
        )
        for start in range(0, len(targets), chunk)
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=wide, device=hidden.device)
