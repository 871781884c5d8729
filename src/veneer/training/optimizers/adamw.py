"""AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101): two float32 moments for each trained number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from veneer.training.optimizers.base import Member, State, zeros_like

EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class AdamW:
    """The rule, with bias-corrected moments."""

    betas: tuple[float, float]

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The number of steps, mean and mean square."""
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, "exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Update all members in one fused pass."""
        # torch.optim.AdamW(fused=True) calls this same operation, but its first use imports torch's compiler, which
        # takes a second and 70 MB.
        torch._foreach_add_([member.state["step"] for member in members], 1.0)
        torch._fused_adamw_(
            [member.parameter for member in members],
            [member.grad for member in members],
            [member.state["exp_avg"] for member in members],
            [member.state["exp_avg_sq"] for member in members],
            [],
            [member.state["step"] for member in members],
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
