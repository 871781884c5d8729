"""Stochastic gradient descent with momentum (Polyak, 1964), as in torch, but with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from veneer.training.optimizers.base import Member, State, zeros_like


@dataclass(frozen=True, slots=True)
class SGD:
    """The rule: v ← momentum · v + g; w ← w − rate · v."""

    momentum: float

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The momentum v."""
        return {"momentum": zeros_like(parameter)}

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Update the members without temporary tensors."""
        for member in members:
            velocity = member.state["momentum"].mul_(self.momentum).add_(member.grad)
            member.parameter.mul_(1 - rate * weight_decay).add_(velocity, alpha=-rate)
