"""LoRA-FA (Zhang et al., 2023, arXiv:2308.03303): A stays as it was drawn, B alone is trained.

B's gradient alone would move W = s·B A in a space bent by A. It is replaced by the one whose effect on W is nearest to
the full gradient's: minimising ‖s·X A − G‖ over X with the given g = s·G Aᵀ gives X = g (A Aᵀ)⁻¹ / s². As PEFT's
LoRA-FA optimiser, before the moments.
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
    """A frozen A beside the B that is trained."""

    a: Tensor
    """[rank, in]; must not change after the first step."""
    b: nn.Parameter
    """[out, rank]."""
    scale: float
    """The factor of the update: alpha / rank, or alpha / √rank."""

    @cached_property
    def projection(self) -> Tensor:
        """(A Aᵀ)⁻¹ / scale², float32 [rank, rank]; computed at the first step, since a resumed run's A comes late.

        A direction in which A has nothing (to float32) is left out, since B's gradient there is rounding alone.
        """
        a = self.a.detach().double()
        gram = a @ a.T + DAMPING * torch.eye(len(a), dtype=torch.float64, device=a.device)
        nothing = len(a) * torch.finfo(torch.float32).eps
        inverse: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=nothing)
        return (inverse / self.scale**2).float()


@torch.no_grad()
def project_gradients(pairs: Sequence[FactorPair]) -> None:
    """Replace the gradient of every B, in place; a B without one is passed over."""
    for pair in pairs:
        if pair.b.grad is not None:
            pair.b.grad.copy_(pair.b.grad @ pair.projection)


class LoraFA:
    """Any optimiser, behind the projection (`Optimizer`).

    Gradients are clipped before, as in PEFT: the limit is on what backward gave.

    Args:
        optimizer: over the B's, and whatever else is trained.
        pairs: whose gradients are projected.
    """

    def __init__(self, optimizer: Optimizer, pairs: Sequence[FactorPair]):
        self.parameters = optimizer.parameters
        self._optimizer, self._pairs = optimizer, tuple(pairs)

    def step(self, learning_rate: float) -> None:
        """Project, then apply."""
        project_gradients(self._pairs)
        self._optimizer.step(learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """The state of the optimiser behind it; the projection has none."""
        return self._optimizer.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in."""
        self._optimizer.load(tensors)
