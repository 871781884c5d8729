"""Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of a mean gradient; one float32 number a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from veneer.training.optimizers.base import Member, State, chunks, zeros_like


@dataclass(frozen=True, slots=True)
class Lion:
    """The rule of Lion. The `betas` belong to the step's direction and to the mean in the state."""

    betas: tuple[float, float]

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The mean gradient."""
        return {"exp_avg": zeros_like(parameter)}

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Update the members chunk by chunk."""
        beta1, beta2 = self.betas
        for member in members:
            weights, grads, means = member.parameter.view(-1), member.grad.reshape(-1), member.state["exp_avg"].view(-1)
            for part in chunks(member.parameter):
                direction = means[part].mul(beta1).add_(grads[part], alpha=1 - beta1).sign_()
                weights[part].mul_(1 - rate * weight_decay).add_(direction, alpha=-rate)
                means[part].mul_(beta2).add_(grads[part], alpha=1 - beta2)
