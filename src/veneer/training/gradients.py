"""What happens to all gradients of a step together: their norm, scaling and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def squared_norm(parameters: Sequence[nn.Parameter]) -> Tensor | None:
    """The sum of the squares of all gradients, a float64 scalar on their device; None if there are no gradients."""
    grads = [p.grad for p in parameters if p.grad is not None]
    # foreach: one call for hundreds of small tensors. The sum of squares is in float64, since it decides the clipping.
    return torch.stack(torch._foreach_norm(grads)).double().square().sum() if grads else None


def global_norm(parameters: Sequence[nn.Parameter]) -> float:
    """Euclidean norm of all gradients together. On a GPU this waits for all work before it."""
    squares = squared_norm(parameters)
    return 0.0 if squares is None else math.sqrt(float(squares))


def unscale(parameters: Sequence[nn.Parameter], scale: int) -> None:
    """Divide all gradients by the factor of the loss, a power of two, so that nothing is rounded. A factor of 1 changes
    nothing."""
    if scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / scale)


def clip(parameters: Sequence[nn.Parameter], norm: float, limit: float) -> None:
    """Scale all gradients so that their norm, given as `norm`, is at most `limit`; a limit of 0 changes nothing."""
    if limit > 0 and norm > limit:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], limit / norm)


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Drop all gradients, and free their memory."""
    for parameter in parameters:
        parameter.grad = None
