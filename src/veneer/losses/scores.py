"""The losses of a chunk of scores in memory, and their gradients, which replace the scores.

The target's gradient is computed so that it neither vanishes nor overflows, however far the target is above or below
the other scores. The compiled kernels and Triton's do the arithmetic of `losses_and_grads_reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from veneer.gpu.dispatch import triton_kernels
from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels
from veneer.products import PLAIN_SCORES, Scores

CHUNK_ROWS = 256
"""Number of rows that are scored at a time on a CPU. 256 × 49,152 bfloat16 scores are 24 MB."""
DEVICE_CHUNK_ROWS = 1024
"""Number of rows that are scored at a time on a GPU. With fewer, reading the head takes longer than the product: a GPU
does some hundred operations for each byte that it reads. 1,024 × 128,256 bfloat16 scores are 263 MB."""
COMPARED_ROWS = 64
"""Number of rows that are compared with a teacher at a time. A comparison holds several tensors of this many rows."""
FLOAT16_FACTOR = 1024.0
"""A power of two by which gradients of float16 scores are multiplied until they are float32. Otherwise those of a token
with a loss below 6e-5 would lose digits, and below 6e-8 vanish. The product with the head has room: it overflows only
if the head has weights above 30."""


def gradient_factor(dtype: torch.dtype) -> float:
    """The factor of the gradients of scores in a dtype, by which those of hidden states are divided."""
    return FLOAT16_FACTOR if dtype is torch.float16 else 1.0


def chunk_rows(device: str) -> int:
    """Number of rows that are scored at a time on a kind of device, `cpu` or another."""
    return CHUNK_ROWS if device == "cpu" else DEVICE_CHUNK_ROWS


def losses_in_place(scores: Tensor, targets: Tensor, *, gradient: bool, shaping: Scores = PLAIN_SCORES) -> Tensor:
    """Losses `[rows]`, float32 or wider, of contiguous `scores` `[rows, vocab]` after scaling and capping by `shaping`.

    `scores` is overwritten. With `gradient` it becomes d(sum of losses)/d(scores), times the `gradient_factor` of its
    dtype. The compiled kernels read bfloat16 scores as they are; torch's own operations work on a float32 copy.
    """
    if not shaping.plain:
        return _shaped_losses(scores, targets, gradient=gradient, shaping=shaping)
    factor = gradient_factor(scores.dtype)
    if scores.is_cuda:
        triton = triton_kernels(scores)
        if triton is not None and targets.is_contiguous():
            return triton.cross_entropy_in_place(scores, targets, gradient=gradient, factor=factor)
    native = kernels()
    if native is not None and kernels_accept(scores) and targets.is_contiguous():
        return native.cross_entropy(scores, targets, gradient=gradient)
    losses, grads = losses_and_grads_reference(scores.to(torch.promote_types(scores.dtype, torch.float32)), targets)
    scores.copy_(grads if factor == 1.0 else grads.mul_(factor))
    return losses


def _shaped_losses(scores: Tensor, targets: Tensor, *, gradient: bool, shaping: Scores) -> Tensor:
    """`losses_in_place` for scores that are scaled or capped first, in float32 or wider."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32), copy=True).mul_(shaping.scale)
    share = None
    if shaping.softcap is not None:
        share = wide.div_(shaping.softcap).tanh_()
        wide = share * shaping.softcap
    losses = losses_in_place(wide, targets, gradient=gradient)
    if gradient:
        # d(c · tanh(s·x/c))/dx = s · (1 − tanh²)
        wide.mul_(shaping.scale * gradient_factor(scores.dtype))
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
