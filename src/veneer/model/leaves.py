"""What a decoder is built from: linear layers, norms, the embedding, and who makes them.

Every tensor is asked for by its path from a `Weights`. That one argument decides how a weight is held (dense,
quantised, trainable) and lets it be streamed from disk.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.model.fused import add_rms_norm, rms_norm, wide_norm
from veneer.model.shape import Norm
from veneer.products import Frozen, LowRank, inputs, outputs, through


class BaseLinear(Frozen, Protocol):
    """What an adapter needs of the linear layer that it stands on (contract 1 in docs/design.md)."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias), `[tokens, in_features]` to `[tokens, out_features]`."""
        ...


class Weights(Protocol):
    """Makes the decoder's leaves; called once for every path."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A `BaseLinear` for `{path}.weight` (and `{path}.bias`)."""
        ...

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A tensor of its own (embedding or norm) under its full name."""
        ...


class DenseLinear(nn.Module):
    """A float linear layer; frozen or trainable as its parameters say. Computes in the dtype of its input."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`; no copy where it is stored so."""
        return self.weight.to(dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update); see `BaseLinear`."""
        return outputs(x, self.weight.to(x.dtype), self.bias, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None) -> Tensor:
        """grad W (+ update); see `BaseLinear`."""
        return inputs(grad, self.weight.to(grad.dtype), update)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias)."""
        if self.weight.requires_grad:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return functional.linear(x, self.weight.to(x.dtype), bias)
        return through(self, x)


class RmsNorm(nn.Module):
    """RMS normalisation with a weight: the norm of most families, and what the others' derive from."""

    def __init__(self, weight: nn.Parameter, eps: float):
        super().__init__()
        self.weight = weight
        self.eps = eps

    def of(self, weight: nn.Parameter, bias: nn.Parameter | None) -> Self:
        """The same norm with other parameters."""
        return type(self)(weight, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[tokens, dim]` over its last axis."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, and its norm."""
        return add_rms_norm(x, delta, self.weight, self.eps)


class WideNorm(RmsNorm):
    """A norm that is computed in float32 as a whole and rounded once.

    Args:
        weight: `[dim]`, or `[heads, head_dim]` for a head each.
        eps: added to the mean square.
        bias: of the same shape.
        centred: whether the mean is taken off first (LayerNorm).
        offset: what the weight is counted from (1 for Gemma's).
    """

    def __init__(
        self,
        weight: nn.Parameter,
        eps: float,
        bias: nn.Parameter | None = None,
        *,
        centred: bool = False,
        offset: float = 0.0,
    ):
        super().__init__(weight, eps)
        self.bias = bias
        self.centred, self.offset = centred, offset

    def of(self, weight: nn.Parameter, bias: nn.Parameter | None) -> Self:
        """The same norm with other parameters."""
        return type(self)(weight, self.eps, bias, centred=self.centred, offset=self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[…, dim]` over its last axis."""
        return wide_norm(x, self.weight, self.bias, self.eps, centred=self.centred, offset=self.offset)

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, and its norm."""
        total = x + delta
        return total, self(total)


def make_norm(kind: Norm, weights: Weights, path: str, shape: tuple[int, ...], eps: float) -> RmsNorm:
    """The norm at `path`, its tensors asked for."""
    weight = weights.parameter(f"{path}.weight", shape)
    if kind is Norm.RMS:
        return RmsNorm(weight, eps)
    bias = weights.parameter(f"{path}.bias", shape) if kind is Norm.LAYER_BIAS else None
    centred = kind in (Norm.LAYER, Norm.LAYER_BIAS)
    return WideNorm(weight, eps, bias, centred=centred, offset=1.0 if kind is Norm.RMS_AROUND_ONE else 0.0)


class Embedding(nn.Module):
    """Token embedding; its weight may also be the head's."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the table, `[tokens]` to `[tokens, dim]` in `dtype`."""
        return functional.embedding(tokens, self.weight).to(dtype)
