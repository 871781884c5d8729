"""Random weights for modules of the decoder that stand alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from veneer.model.leaves import DenseLinear


@dataclass
class RandomWeights:
    """A `veneer.model.leaves.Weights` that draws every tensor, and notes the order of what it is asked for."""

    seed: int = 0
    dtype: torch.dtype = torch.float64
    trainable: bool = False
    asked: list[str] = field(default_factory=list)

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return DenseLinear(weight, self.parameter(f"{path}.bias", (out_features,)) if bias else None)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        self.asked.append(path)
        generator = torch.Generator().manual_seed(hash((self.seed, len(self.asked))) % 2**31)
        drawn = 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in path:
            drawn += 1
        return nn.Parameter(drawn.to(self.dtype), requires_grad=self.trainable)
