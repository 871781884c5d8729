"""The learning rate over time, and the gradient's norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.enums import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSchedule:
    """A warm-up, followed by a decay."""

    peak: float
    steps: int
    warmup: float
    """The share of the steps over which the rate rises."""
    shape: Schedule
    end: float
    """The rate at the end of the decay, as a share of the peak. The step after the last one would have it, as in
    transformers, so that no step is made at a rate of 0."""

    def at(self, step: int) -> float:
        """The rate of the 1-based `step`: it rises to the peak, then falls towards `end`."""
        rising = math.ceil(self.warmup * self.steps)
        if step <= rising:
            return self.peak * step / (rising + 1)
        if self.shape is Schedule.CONSTANT:
            return self.peak
        done = (step - rising - 1) / max(1, self.steps - rising)
        left = 1 - done if self.shape is Schedule.LINEAR else 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.end + (1 - self.end) * left)


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
