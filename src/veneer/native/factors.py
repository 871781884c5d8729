"""Low-rank factors as the compiled step reads them: the adapters of a step, whatever their ranks and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFactors:
    """The update of one linear layer: y += scale · (x Aᵀ) Bᵀ + bias."""

    down: Tensor
    """A, `[rank, in]`, contiguous, float32 or bfloat16."""
    up: Tensor
    """Bᵀ, `[rank, out]`, contiguous, with the dtype of A."""
    scale: float
    bias: Tensor | None = None
    """float32 `[out]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFactors:
    """All updates of an adapter, by the paths of the layers."""

    layers: Mapping[str, LayerFactors]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            part.down.nbytes + part.up.nbytes + (0 if part.bias is None else part.bias.nbytes)
            for part in self.layers.values()
        )
