"""The modules of a decoder that hold weights (linear layers, norms and the embedding), and the protocols that make
them.

A decoder asks a `Weights` for every tensor by its path, and a `Tables` for embedding and head. These two arguments
decide the form of a weight (dense, quantised, trainable), and can stream it from disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.gpu.transfer import sent
from veneer.model.fused import add_rms_norm, rms_norm, wide_norm
from veneer.model.shape import Norm
from veneer.native.stored import HoldsStored, StoredLinear, stored_dense
from veneer.products import LowRank, apply_frozen, apply_trained, stored_linear, stored_linear_input_grad
from veneer.tables import DenseTable, HoldsTable, TokenLookup


class SharesInput(ABC):
    """A linear layer that can be computed together with others that read the same input."""

    @abstractmethod
    def with_others(self, others: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...] | None:
        """The outputs of this layer and of the others, `[tokens, out]` each; None where each computes its own.

        Args:
            others: linear layers.
            x: the input of all, `[tokens, in]`.
        """


def outputs_of(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of linear layers that read the same input `[tokens, in]`, `[tokens, out]` each."""
    first = layers[0]
    joined = first.with_others(layers[1:], x) if isinstance(first, SharesInput) else None
    if joined is not None:
        return joined
    # Where others read the input too (the residual stream, or a block beside this one), the gradients of these layers
    # are summed before those are added, as `with_others` sums them. So both ways have the same bits.
    own = x.view_as(x)
    return tuple(layer(own) for layer in layers)


class Weights(Protocol):
    """Makes the modules and parameters of a decoder. Each path is requested once."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A base linear (`veneer.products.BaseLinear`) with the weight `{path}.weight` (and the bias `{path}.bias`)."""
        ...

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A parameter of any other module (embedding, norm, router), by its full name."""
        ...


class Tables(Protocol):
    """Makes embedding and head of a decoder, whose weights have a row for each token."""

    def embedding(self, path: str, shape: tuple[int, int]) -> TokenLookup:
        """The embedding with the weight of this name."""
        ...

    def head(self, path: str, shape: tuple[int, int]) -> nn.Module:
        """A separate head with the weight of this name; the embedding makes a head that is tied to it."""
        ...


class DenseLinear(nn.Module, HoldsStored, HoldsTable):
    """A float linear layer, frozen or trainable as its parameters are. It computes in the dtype of its input."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias

    @property
    def table(self) -> DenseTable:
        """See `HoldsTable`."""
        return DenseTable(self.weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`, without a copy if it has that dtype."""
        return self.weight.to(dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update); see `FrozenLinear`."""
        return stored_linear(x, self, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto); see `FrozenLinear`."""
        return stored_linear_input_grad(grad, self, update, onto)

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`."""
        weight = stored_dense(self.weight)
        return None if weight is None else StoredLinear(weight=weight, bias=self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias)."""
        if self.weight.requires_grad:
            return apply_trained(x, self.weight, self.bias)
        return apply_frozen(self, x)


class NormModule(nn.Module, ABC):
    """A norm with a weight."""

    def __init__(self, weight: nn.Parameter, eps: float):
        super().__init__()
        self.weight = weight
        self.eps = eps

    @abstractmethod
    def of(self, weight: nn.Parameter, bias: nn.Parameter | None) -> Self:
        """A norm of this kind with other parameters."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[tokens, dim]` or `[tokens, heads, dim]` over its last axis."""

    @abstractmethod
    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The sum x + delta, and its norm."""


class RmsNorm(NormModule):
    """RMS normalisation with a weight: the norm of most families."""

    def of(self, weight: nn.Parameter, bias: nn.Parameter | None) -> Self:
        """A norm of this kind with other parameters."""
        return type(self)(weight, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[tokens, dim]` or `[tokens, heads, dim]` over its last axis."""
        if x.ndim == 3:
            # As rows, so that the kernels accept them.
            return rms_norm(x.flatten(0, 1), self.weight, self.eps).view(x.shape)
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The sum x + delta, and its norm."""
        return add_rms_norm(x, delta, self.weight, self.eps)


class WideNorm(NormModule):
    """A norm that is computed in float32 as a whole and rounded once.

    Args:
        weight: weight `[dim]`, or `[heads, head_dim]` with one row for each head.
        eps: number that is added to the mean square.
        bias: bias in the shape of the weight, or None.
        centred: whether the mean is subtracted first (LayerNorm).
        offset: number that is added to the weight (1 for Gemma).
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
        """A norm of this kind with other parameters."""
        return type(self)(weight, self.eps, bias, centred=self.centred, offset=self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[…, dim]` over its last axis."""
        return wide_norm(x, self.weight, self.bias, self.eps, centred=self.centred, offset=self.offset)

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The sum x + delta, and its norm."""
        total = x + delta
        return total, self(total)


def make_norm(kind: Norm, weights: Weights, path: str, shape: tuple[int, ...], eps: float) -> NormModule:
    """Make the norm at `path`, with tensors from `weights`."""
    weight = weights.parameter(f"{path}.weight", shape)
    if kind is Norm.RMS:
        return RmsNorm(weight, eps)
    bias = weights.parameter(f"{path}.bias", shape) if kind is Norm.LAYER_BIAS else None
    centred = kind in (Norm.LAYER, Norm.LAYER_BIAS)
    return WideNorm(weight, eps, bias, centred=centred, offset=1.0 if kind is Norm.RMS_AROUND_ONE else 0.0)


class HostEmbedding(nn.Module):
    """A frozen token embedding in main memory, for a model on a GPU that has no room for it: its rows are looked up
    there, and sent to the GPU.

    Args:
        weight: the weight `[vocab_size, dim]`; it is copied to main memory.
        device: the device of the model.
    """

    def __init__(self, weight: Tensor, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().cpu(), requires_grad=False)
        self._device = device

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up token ids `[tokens]`: their rows, `[tokens, dim]` in `dtype` on the model's device.

        Ids that are in the main memory already are not waited for.
        """
        return sent(functional.embedding(tokens.cpu(), self.weight).to(dtype), self._device)


class Embedding(TokenLookup):
    """Token embedding whose weight is a tensor. A tied head shares it."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    @property
    def table(self) -> DenseTable:
        """See `HoldsTable`."""
        return DenseTable(self.weight)

    def tied_head(self) -> DenseLinear:
        """See `TokenLookup`."""
        return DenseLinear(self.weight)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """See `TokenLookup`."""
        return functional.embedding(tokens, self.weight).to(dtype)


@dataclass(frozen=True, slots=True)
class DenseTables:
    """Embedding and head whose weights are tensors (`Tables`)."""

    weights: Weights

    def embedding(self, path: str, shape: tuple[int, int]) -> Embedding:
        """See `Tables`."""
        return Embedding(self.weights.parameter(path, shape))

    def head(self, path: str, shape: tuple[int, int]) -> DenseLinear:
        """See `Tables`."""
        return DenseLinear(self.weights.parameter(path, shape))
