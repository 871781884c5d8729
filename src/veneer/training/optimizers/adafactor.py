"""Adafactor (Shazeer & Stern, 2018, arXiv:1804.04235): stores the mean squares of a matrix by row and column only.

Algorithms 4 to 6 of the paper with an external learning rate: factored second moments, β₂ = 1 − t^−0.8, updates clipped
to a root mean square of 1. It omits the paper's relative step sizes, which would take the rate out of the user's
control, and the first moment, which would cost what the factoring saves. It equals `transformers.Adafactor` with
scale_parameter=False and relative_step=False.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.training.optimizers.base import Member, State, counter, zeros_like

EPSILON = 1e-30
"""Added to squared gradients (ε₁)."""
DECAY = -0.8
CLIP = 1.0
"""The largest root mean square of an update, before the rate (d)."""


@dataclass(frozen=True, slots=True)
class Adafactor:
    """The rule; it has no settings."""

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The number of steps; mean squares of rows and columns for a matrix, of every element for anything else."""
        if parameter.ndim != 2:
            return {"step": counter(), "exp_avg_sq": zeros_like(parameter)}
        rows, columns = parameter.shape
        return {
            "step": counter(),
            "exp_avg_sq_row": torch.zeros(rows, dtype=parameter.dtype, device=parameter.device),
            "exp_avg_sq_col": torch.zeros(columns, dtype=parameter.dtype, device=parameter.device),
        }

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Change the parameters by their gradients, in the gradients' own memory: no tensor of a matrix's size is
        allocated."""
        for member in members:
            member.state["step"] += 1
            beta = 1 - math.pow(float(member.state["step"]), DECAY)
            scale = _factored if member.parameter.ndim == 2 else _elementwise
            update = scale(member.grad, member.state, beta)
            size = update.norm() / math.sqrt(update.numel())
            member.parameter.mul_(1 - rate * weight_decay)
            member.parameter.sub_(update.mul_(rate / (size / CLIP).clamp_(min=1.0)))


def _factored(grad: Tensor, state: State, beta: float) -> Tensor:
    """The gradient over the root of its factored mean square: R_i C_j / mean(R)."""
    row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
    row.mul_(beta).add_(_mean_square(grad, 1), alpha=1 - beta)
    column.mul_(beta).add_(_mean_square(grad, 0), alpha=1 - beta)
    return grad.mul_((row / row.mean()).rsqrt_().unsqueeze(1)).mul_(column.rsqrt().unsqueeze(0))


def _mean_square(grad: Tensor, dim: int) -> Tensor:
    # The norm sums without a copy; grad.square() would be a second gradient.
    norms: Tensor = torch.linalg.vector_norm(grad, dim=dim)
    return norms.square_().div_(grad.shape[dim]).add_(EPSILON)


def _elementwise(grad: Tensor, state: State, beta: float) -> Tensor:
    square = state["exp_avg_sq"].mul_(beta).add_(grad.square().add_(EPSILON), alpha=1 - beta)
    return grad.mul_(square.rsqrt())
