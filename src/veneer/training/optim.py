"""The optimiser, its learning rate over time, and the gradient's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from veneer.config import Method, Schedule


def auto_learning_rate(method: Method, hidden_size: int) -> float:
    """A peak rate from the model's width.

    LoRA: 5e-5 · 10 · (2000 / hidden)^0.78, the fit over Llama and Qwen models of "LoRA Without Regret" (Schulman et
    al., 2025), nearly independent of rank and ten times the rate of full fine-tuning.
    """
    adapter: float = 5e-4 * (2000 / hidden_size) ** 0.78
    return adapter / 10 if method is Method.FULL else adapter


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSchedule:
    """Warm-up, then a fall."""

    peak: float
    steps: int
    warmup: float
    """Share of the steps over which the rate rises."""
    shape: Schedule
    end: float
    """Where the fall ends, as a share of the peak."""

    def at(self, step: int) -> float:
        """The rate of the 1-based `step`: rising to the peak, then falling towards `end` at the last step."""
        rising = math.ceil(self.warmup * self.steps)
        if step <= rising:
            return self.peak * step / (rising + 1)
        if self.shape is Schedule.CONSTANT:
            return self.peak
        done = (step - rising - 1) / max(1, self.steps - rising)
        left = 1 - done if self.shape is Schedule.LINEAR else 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.end + (1 - self.end) * left)


def global_norm(parameters: Sequence[nn.Parameter]) -> float:
    """Euclidean norm of all gradients together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    # foreach: one call for hundreds of small tensors; the sum of squares in float64, since it decides the clipping; and
    # one read of the result, since on a GPU each waits for all work before it.
    return math.sqrt(float(torch.stack(torch._foreach_norm(grads)).double().square().sum()))


def clip(parameters: Sequence[nn.Parameter], norm: float, limit: float) -> None:
    """Scale all gradients so that their norm, given as `norm`, is at most `limit`; a limit of 0 changes nothing."""
    if limit > 0 and norm > limit:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], limit / norm)


class AdamW:
    """AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101) over named parameters, its state as named tensors.

    Weight decay falls on matrices alone: decaying norms and biases towards zero is not regularisation.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, weight_decay: float, betas: tuple[float, float]):
        self.parameters = dict(parameters)
        self._weight_decay, self._betas = weight_decay, betas
        # State exists from the start, so that saving before the first step and loading need no special case.
        self._state = {
            name: {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        for decays in (True, False):
            names = [n for n, p in self.parameters.items() if (p.ndim >= 2) is decays and p.grad is not None]
            if names:
                self._apply(names, learning_rate, self._weight_decay if decays else 0.0)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _apply(self, names: Sequence[str], learning_rate: float, weight_decay: float) -> None:
        # torch.optim.AdamW(fused=True) ends in this same operation, but its first use imports torch's compiler, which
        # takes a second and 70 MB.
        states = [self._state[name] for name in names]
        torch._foreach_add_([state["step"] for state in states], 1.0)
        torch._fused_adamw_(
            [self.parameters[name] for name in names],
            [cast(Tensor, self.parameters[name].grad) for name in names],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            lr=learning_rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state, `{parameter name}/{kind}`; the tensors themselves, not copies."""
        return {f"{name}/{kind}": tensor for name, state in self._state.items() for kind, tensor in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in; names and shapes must be those of `tensors()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
