"""The protocol of optimisers, and the holder of states that all rules share.

A rule defines the state of a tensor and how a step changes it. Which parameters decay, at what rate, and under which
names the state is saved is the same for all rules and defined here. Everything is a function of weights, gradients,
state and rate, so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""The state of one parameter, by kind."""


class Optimizer(Protocol):
    """The interface of an optimiser for the training loop and the checkpoints."""

    parameters: dict[str, nn.Parameter]

    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name; the tensors themselves, not copies."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a saved state.

        Raises:
            KeyError: a tensor of `tensors()` is missing.
            RuntimeError: one has another shape or dtype.
        """
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One parameter in a step."""

    parameter: nn.Parameter
    grad: Tensor
    """The gradient, which may be overwritten: it is cleared after the step."""
    state: State


class Rule(Protocol):
    """The rule by which parameters change in a step."""

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The parameter's state before the first step."""
        ...

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Change the parameters and their states, in place.

        Args:
            members: the parameters, all with this rate and decay.
            rate: the learning rate of this step.
            weight_decay: the decoupled decay: weights shrink by rate · weight_decay.
        """
        ...


class RuleOptimizer:
    """Named parameters with one rule, and their state as named tensors (`Optimizer`).

    Only matrices decay: decaying norms and biases towards zero is not regularisation.

    Args:
        parameters: the trained parameters.
        rule: the rule by which they change.
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
            # torch's fused rules and those of bitsandbytes change tensors without counting the change, and values
            # derived from the old ones are recognised by that count (`veneer.adapters.layers.rounded`).
            torch.autograd.graph.increment_version([member.parameter for member in members])
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state, `{parameter name}/{kind}`; the tensors themselves, not copies."""
        return {f"{name}/{kind}": tensor for name, state in self._state.items() for kind, tensor in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a saved state; names, shapes and dtypes must be those of `tensors()`."""
        for name, tensor in self.tensors().items():
            saved = tensors[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                # `copy_` would convert codes into numbers, and broadcast a scalar over a tensor.
                raise RuntimeError(
                    f"{name} is {saved.dtype} {list(saved.shape)}; it must be {tensor.dtype} {list(tensor.shape)}"
                )
            tensor.copy_(saved)


def counter() -> Tensor:
    """A step counter, float32 on the CPU: it is read at every step, and on a GPU that would wait for all work."""
    return torch.zeros((), dtype=torch.float32)


def zeros_like(parameter: nn.Parameter) -> Tensor:
    """A tensor of zeros for a mean, with the parameter's shape."""
    return torch.zeros_like(parameter, requires_grad=False)


CHUNK_CPU = 1 << 18
CHUNK_GPU = 1 << 24


def chunks(parameter: nn.Parameter) -> Iterable[slice]:
    """Slices of the flattened parameter for a rule, so that its temporary tensors take a few MB for any size. They are
    multiples of every block size, and large on a GPU, since each costs a launch."""
    return _slices(parameter.numel(), CHUNK_CPU if parameter.device.type == "cpu" else CHUNK_GPU)


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(total, start + size))
