"""What an optimiser is, and the one holder of states that all rules share.

A rule says what is kept for a tensor and how a step changes it; who decays, at what rate and under which names the
state is saved is the same for all and stands here. Everything is a function of weights, gradients, state and rate, so
that a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""What is kept for one parameter, by kind."""


class Optimizer(Protocol):
    """What the training loop and the checkpoints ask of an optimiser."""

    parameters: dict[str, nn.Parameter]

    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name; the tensors themselves, not copies."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in.

        Raises:
            KeyError: a tensor of `tensors()` is missing.
            RuntimeError: one has another shape or dtype.
        """
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor in a step."""

    parameter: nn.Parameter
    grad: Tensor
    """May be overwritten: it is cleared after the step."""
    state: State


class Rule(Protocol):
    """How tensors change in a step."""

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """What is kept for the parameter, as it is before the first step."""
        ...

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Change the parameters and their states, in place.

        Args:
            members: all with this rate and decay.
            rate: of this step.
            weight_decay: decoupled: weights shrink by rate · weight_decay.
        """
        ...


class RuleOptimizer:
    """Named parameters under one rule, their state as named tensors (`Optimizer`).

    Weight decay falls on matrices alone: decaying norms and biases towards zero is not regularisation.

    Args:
        parameters: what is trained.
        rule: how.
        weight_decay: decoupled decay (Loshchilov & Hutter, 2019, arXiv:1711.05101).
        rates: a parameter's learning rate as a multiple of the step's; 1 for those not named.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rule: Rule,
        *,
        weight_decay: float,
        rates: Mapping[str, float] | None = None,
    ):
        self.parameters = dict(parameters)
        self._rule, self._weight_decay, self._rates = rule, weight_decay, dict(rates or {})
        # State exists from the start, so that saving before the first step and loading need no special case.
        self._state = {name: rule.state(name, parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        groups: dict[tuple[bool, float], list[Member]] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                key = (parameter.ndim >= 2, self._rates.get(name, 1.0))
                groups.setdefault(key, []).append(Member(parameter, parameter.grad, self._state[name]))
        for (decays, factor), members in groups.items():
            self._rule.update(members, factor * learning_rate, self._weight_decay if decays else 0.0)
            # torch's fused rules and those of bitsandbytes change tensors without counting it, and what was made of
            # the old values is told by that count (`veneer.adapters.layers.rounded`).
            torch.autograd.graph.increment_version([member.parameter for member in members])
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state, `{parameter name}/{kind}`; the tensors themselves, not copies."""
        return {f"{name}/{kind}": tensor for name, state in self._state.items() for kind, tensor in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in; names, shapes and dtypes must be those of `tensors()`."""
        for name, tensor in self.tensors().items():
            saved = tensors[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                # `copy_` would turn codes into numbers, and spread a scalar over a tensor.
                raise RuntimeError(
                    f"{name} is {saved.dtype} {list(saved.shape)}; it must be {tensor.dtype} {list(tensor.shape)}"
                )
            tensor.copy_(saved)


def counter() -> Tensor:
    """A number of steps, float32 on the CPU: it is read at every step, which on a GPU would wait for all work."""
    return torch.zeros((), dtype=torch.float32)


def zeros_like(parameter: nn.Parameter) -> Tensor:
    """A mean of as many elements."""
    return torch.zeros_like(parameter, requires_grad=False)


CHUNK_CPU = 1 << 18
CHUNK_GPU = 1 << 24


def chunks(parameter: nn.Parameter) -> Iterable[slice]:
    """Parts of the flattened parameter that a rule goes through, so that its transient tensors take a few MB whatever
    the size. Multiples of every block; on a GPU large ones, since each is a launch."""
    return _slices(parameter.numel(), CHUNK_CPU if parameter.device.type == "cpu" else CHUNK_GPU)


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(total, start + size))
