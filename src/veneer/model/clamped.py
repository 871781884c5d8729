"""The gated product of gpt-oss, with a backward pass that needs only its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Clamped(torch.autograd.Function):
    """h = (u + 1) · g · σ(α g) with g = min(gate, L), u = clamp(up, −L, L), as in gpt-oss' model code.

    dg = dh (u + 1) σ (1 + α g (1 − σ)), du = dh g σ. Both are zero where a value was clamped.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.alpha, ctx.limit = alpha, limit
        cut = gate.clamp(max=limit)
        return torch.sigmoid(cut * alpha).mul_(cut).mul_(up.clamp(-limit, limit).add_(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        alpha, limit, dh = ctx.alpha, ctx.limit, grads[0]
        cut = gate.clamp(max=limit)
        sigma = torch.sigmoid(cut * alpha)
        grad_up = (dh * cut).mul_(sigma).masked_fill_(up.abs() > limit, 0.0)
        slope = (1 - sigma).mul_(cut).mul_(alpha).add_(1).mul_(sigma)
        grad_gate = slope.mul_(up.clamp(-limit, limit).add_(1)).mul_(dh).masked_fill_(gate > limit, 0.0)
        return grad_gate, grad_up, None, None


def clamped_swiglu(gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
    """(clamp(up) + 1) · clamp(gate) · σ(alpha · clamp(gate)), elementwise."""
    result: Tensor = _Clamped.apply(gate, up, alpha, limit)
    return result
