"""LoRA-FA (Zhang et al., 2023, arXiv:2308.03303): A keeps its initial values, and only B is trained.

B's gradient alone would move W = s·B A in a space that A distorts. So it is replaced by the one whose effect on W is
nearest to the full gradient's: minimising ‖s·X A − G‖ over X with the given g = s·G Aᵀ gives X = g (A Aᵀ)⁻¹ / s².
PEFT's LoRA-FA optimiser does the same, before the moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from veneer.training.optimizers.base import Optimizer

DAMPING = 1e-8
"""Added to the diagonal of A Aᵀ."""


@dataclass(frozen=True)
class FactorPair:
    """A frozen A and its trained B."""

    a: Tensor
    """The frozen factor, [rank, in]; it must not change after the first step."""
    b: nn.Parameter
    """The trained factor, [out, rank]."""
    scale: float
    """The factor of the update: alpha / rank, or alpha / √rank."""

    @cached_property
    def projection(self) -> Tensor:
        """(A Aᵀ)⁻¹ / scale², float32 [rank, rank]. It is computed at the first step, since a resumed run loads A late.

        A direction in which A is zero (in float32) is left out, since B's gradient there is only rounding.
        """
        a = self.a.detach().double()
        gram = a @ a.T + DAMPING * torch.eye(len(a), dtype=torch.float64, device=a.device)
        nothing = len(a) * torch.finfo(torch.float32).eps
        inverse: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=nothing)
        return (inverse / self.scale**2).float()


@torch.no_grad()
def project_gradients(pairs: Sequence[FactorPair]) -> None:
    """Replace the gradient of every B, in place; a B without a gradient is skipped."""
    for pair in pairs:
        if pair.b.grad is not None:
            pair.b.grad.copy_(pair.b.grad @ pair.projection)


class LoraFA:
    """Any optimiser, with the projection before it (`Optimizer`).

    Gradients are clipped before the projection, as in PEFT: the limit applies to the gradients of the backward pass.

    Args:
        optimizer: the optimiser of the B's, and of whatever else is trained.
        pairs: the factors whose gradients are projected.
    """

    def __init__(self, optimizer: Optimizer, pairs: Sequence[FactorPair]):
        self.parameters = optimizer.parameters
        self._optimizer, self._pairs = optimizer, tuple(pairs)

    def step(self, learning_rate: float) -> None:
        """Project the gradients, then apply them."""
        project_gradients(self._pairs)
        self._optimizer.step(learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """The state of the inner optimiser; the projection has none."""
        return self._optimizer.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a saved state."""
        self._optimizer.load(tensors)
