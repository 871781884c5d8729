"""The rounding of inputs in llama.cpp's products, repeated by veneer: the floor that llama.cpp's answers are judged by.

llama.cpp rounds the inputs of a product to the type that the matrix's kernel accepts (`vec_dot_type` in its
ggml-cpu.c): float16 and bfloat16 for matrices of these, 8-bit integers with a scale for every 32 for Q8_0, Q4_0, Q5_0
and Q5_1, and with one for every 256 for the K-quants. Its GELU is read from a table of float16 numbers. The effect
depends on the model and on the rows, so no constant can allow for it. The model is therefore computed once more with
inputs rounded in this way; llama.cpp may be off by the distance between that and the exact computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from veneer.io.checkpoint import Checkpoint
from veneer.loading.expected import linear_paths
from veneer.loading.how import Loading
from veneer.loading.streams import StreamedWeights
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.model.shape import Activation
from veneer.products import LowRank, apply_frozen


class InputRounding(Enum):
    """How a product's inputs are rounded."""

    NONE = "none"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    BLOCKS_OF_32 = "8 bits, blocks of 32"
    BLOCKS_OF_256 = "8 bits, blocks of 256"


BY_TYPE: dict[str, InputRounding] = {
    "F32": InputRounding.NONE,
    "F16": InputRounding.FLOAT16,
    "BF16": InputRounding.BFLOAT16,
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "Q5_1"), InputRounding.BLOCKS_OF_32),
    **dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), InputRounding.BLOCKS_OF_256),
}
"""The rounding by the GGUF type of the matrix."""


def rounded(x: Tensor, how: InputRounding) -> Tensor:
    """Inputs `[tokens, features]` rounded as a kernel rounds them, in their own dtype."""
    match how:
        case InputRounding.NONE:
            return x
        case InputRounding.FLOAT16:
            return x.to(torch.float16).to(x.dtype)
        case InputRounding.BFLOAT16:
            return x.to(torch.bfloat16).to(x.dtype)
        case InputRounding.BLOCKS_OF_32:
            return _in_blocks(x, 32)
        case InputRounding.BLOCKS_OF_256:
            return _in_blocks(x, 256)


def _in_blocks(x: Tensor, block: int) -> Tensor:
    """Each block of a row as whole numbers of at most 127, times the largest magnitude / 127."""
    blocks = x.reshape(*x.shape[:-1], -1, block)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = (blocks / scale.clamp_min(torch.finfo(x.dtype).tiny)).round()
    return (codes * scale).reshape(x.shape)


class RoundedLinear(nn.Module):
    """A frozen linear layer (contract 1 in docs/design.md) whose inputs are rounded first. It has no gradient."""

    def __init__(self, inner: DenseLinear, roundings: tuple[InputRounding, ...]):
        super().__init__()
        self.inner, self.roundings = inner, roundings
        self.in_features, self.out_features = inner.in_features, inner.out_features

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer."""
        return self.inner.bias

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`."""
        return self.inner.dequantize(dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """round(x) Wᵀ (+ bias) (+ update)."""
        for how in self.roundings:
            x = rounded(x, how)
        return self.inner.product(x, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto): rounding is ignored."""
        return self.inner.input_gradient(grad, update, onto)

    def forward(self, x: Tensor) -> Tensor:
        """round(x) Wᵀ (+ bias)."""
        return apply_frozen(self, x)


@dataclass(frozen=True, slots=True)
class _RoundedWeights:
    """Makes the decoder's leaves (`veneer.model.leaves.Weights`)."""

    weights: StreamedWeights
    types: Mapping[str, str]
    """GGUF types by the weights' Hugging Face names."""
    gelu: bool
    """Whether the feed-forward's gate is a GELU."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        inner = self.weights.linear(path, in_features, out_features, bias=bias)
        assert isinstance(inner, DenseLinear)
        # The down projection reads what the table has rounded.
        table = (InputRounding.FLOAT16,) if self.gelu and path.endswith("down_proj") else ()
        roundings = (*table, BY_TYPE[self.types[f"{path}.weight"]])
        return RoundedLinear(inner, roundings) if set(roundings) != {InputRounding.NONE} else inner

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        return self.weights.parameter(path, shape)


def load_rounded(checkpoint: Checkpoint, types: Mapping[str, str], device: torch.device) -> CausalLM:
    """A model in float32 whose products round their inputs; the head's inputs are the caller's to round.

    Args:
        checkpoint: dense weights.
        types: the GGUF type of every matrix, by its Hugging Face name.
        device: the device that computes.
    """
    spec = spec_from_hf(checkpoint.config)
    how = Loading(dtype=torch.float32, device=device)
    weights = StreamedWeights(checkpoint=checkpoint, how=how, dense=frozenset(linear_paths(spec)))
    gelu = spec.activation is Activation.GELU_TANH
    model = CausalLM(spec, _RoundedWeights(weights, types, gelu), torch.float32)
    model.requires_grad_(False).eval()
    return model


def rounds(types: Mapping[str, str], activation: Activation) -> bool:
    """Whether llama.cpp rounds anything of a model."""
    return activation is Activation.GELU_TANH or any(BY_TYPE[one] is not InputRounding.NONE for one in types.values())
