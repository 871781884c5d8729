"""The optimiser, its learning rate over time, and the gradient's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    # foreach: one call for hundreds of small tensors; the sum of squares in float64, since it decides the clipping.
    return math.sqrt(sum(float(norm) ** 2 for norm in torch._foreach_norm(grads)))


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
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        decays = ((matrices, weight_decay), (others, 0.0))
        groups = [{"params": group, "weight_decay": decay} for group, decay in decays if group]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)
        # State exists from the start, so that saving before the first step and loading need no special case.
        for parameter in self.parameters.values():
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The state, `{parameter name}/{kind}`; the tensors themselves, not copies."""
        return {
            f"{name}/{kind}": tensor
            for name, parameter in self.parameters.items()
            for kind, tensor in self._optimizer.state[parameter].items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in; names and shapes must be those of `tensors()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
