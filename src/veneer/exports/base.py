"""The base that an adapter is merged into, read tensor by tensor.

An adapter trained with a quantised base has two bases: the weights as they are in the model's files, and those weights
quantised and decoded, which are what the adapter saw. (Files that are already quantised have only the second.) Neither
is held as a whole in full precision: the first stays in its files, the second in memory as it is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor, nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import TOKENIZER_FILE, check_adapter, read_tensors, read_tokenizer
from veneer.adapters.load import load_adapter
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.config import QuantSection
from veneer.exports.tensors import ModelTensors
from veneer.io.checkpoint import Checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.loading.expected import TABLE_NAMES, check_tensors
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear, Embedding
from veneer.products import LowRank, apply_frozen, linear, linear_input_grad
from veneer.quant.packed import PackedLinear


class MergeBase(Enum):
    """The weights that the update is added to."""

    ORIGINAL = "original"
    """The weights in the model's files."""
    DEQUANTISED = "dequantised"
    """The decoded values of the quantised weights that a QLoRA adapter was trained with."""


@dataclass(frozen=True, slots=True)
class TrainingBase:
    """How the base was held when the adapter was trained."""

    quantized: bool
    quant: QuantSection
    dtype: torch.dtype
    """The dtype of the base before it was quantised."""


@dataclass(frozen=True, slots=True)
class Source:
    """A base with an adapter on it, for reading and not for computing."""

    checkpoint: Checkpoint
    model: CausalLM
    adapter: Adapter
    tokenizer: Tokenizer | None = None
    """The adapter's tokenizer, if it knows more tokens than the model's."""

    def base(self, name: str) -> Tensor:
        """A tensor of the base in float32, as it is held."""
        path, _, leaf = name.rpartition(".")
        held = self.adapter.base_of(path) or self.model.get_submodule(path)
        if leaf == "weight" and isinstance(held, PackedLinear):
            return held.dequantize(torch.float32)
        dense = isinstance(held, Embedding | DenseLinear) and leaf == "weight"
        if dense and held.get_parameter("weight").shape != self.checkpoint.shape(name):
            return held.get_parameter("weight").detach().float()  # the adapter has another vocabulary
        return ModelTensors(self.checkpoint).read(name, torch.float32)

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Every base tensor that the adapter changes, with the change, in float64, so that the result is rounded
        once."""
        return self.adapter.merged()


def open_source(checkpoint: Checkpoint, adapter: Path, base: MergeBase, trained: TrainingBase) -> Source:
    """Put the adapter in a folder on a base, without reading those of the base's linear layers that stay in their
    files.

    Raises:
        ModelError, AdapterError: they cannot be used, or do not fit each other.
    """
    check_adapter(adapter)
    tables = any(name.startswith((EMBEDDING, HEAD)) for name in read_tensors(adapter))
    if base is MergeBase.DEQUANTISED:
        model = load_model(
            checkpoint,
            Loading(form=WeightForm.QUANTIZED, dtype=torch.float32, quant=trained.quant, quantised_from=trained.dtype),
        )
    else:
        spec = spec_from_hf(checkpoint.config)
        check_tensors(checkpoint, spec)
        model = CausalLM(spec, _FileWeights(checkpoint, tables), torch.float32)
    model.requires_grad_(False).eval()
    tokenizer = None
    if (adapter / TOKENIZER_FILE).is_file():
        tokenizer = read_tokenizer(adapter, checkpoint.tokenizer())
    return Source(checkpoint, model, load_adapter(model, adapter), tokenizer)


@dataclass(frozen=True, slots=True)
class _FileWeights:
    """Leaves whose matrices stay in the model's files (`veneer.model.leaves.Weights`)."""

    checkpoint: Checkpoint
    tables: bool
    """Whether embedding and head are needed; else they are shapes without values."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        return FileLinear(self.checkpoint, path, in_features, out_features, bias)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        if path in TABLE_NAMES and not self.tables:
            return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
        return nn.Parameter(self.checkpoint.read(path, torch.float32), requires_grad=False)


class FileLinear(nn.Module):
    """A base linear (contract 1 in docs/design.md) whose weight is read from the file at every use."""

    bias: Tensor | None

    def __init__(self, checkpoint: Checkpoint, path: str, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._checkpoint, self._path = checkpoint, path
        self.register_buffer("bias", checkpoint.read(f"{path}.bias", torch.float32) if bias else None)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`."""
        return self._checkpoint.read(f"{self._path}.weight", dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update)."""
        return linear(x, self.dequantize(x.dtype), self.bias, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto); see `FrozenLinear`."""
        return linear_input_grad(grad, self.dequantize(grad.dtype), update, onto)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias)."""
        return apply_frozen(self, x)
