"""Tensors on their way from files to modules, one at a time, straight to their final form.

The decoder requests its modules in order. Each weight is read, quantised if the method says so, and moved to the device
before the next one is read. The full-precision model is never in memory as a whole. Quantised weights in the files are
used as they are, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from veneer.enums import Products
from veneer.errors import ModelError
from veneer.io.checkpoint import Checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.stored import in_experts, packed_layer
from veneer.machine.large_pages import Slab, copied
from veneer.model.leaves import DenseLinear, DenseTables
from veneer.quant.blocks import BlockLinear
from veneer.quant.int8 import Int8Linear
from veneer.quant.packed import PackedLinear
from veneer.quant.schemes import pack
from veneer.quant.tables import BlockEmbedding, BlockHead, BlockTable
from veneer.tables import TokenLookup


@dataclass
class StreamedWeights:
    """Reads each tensor from the checkpoint as the decoder asks for it (`veneer.model.leaves.Weights`)."""

    checkpoint: Checkpoint
    how: Loading
    dense: frozenset[str]
    """Paths of the linear layers that are not quantised on loading."""
    keeps_blocks: bool = False
    """Whether linear layers are held in the blocks of a GGUF file where kernels read these."""
    narrow: bool = False
    """Whether frozen linear layers are held in 16 bits per weight if that represents the same numbers."""
    slab: Slab = field(default_factory=Slab)
    """The memory for frozen linear layers on the CPU."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights that are not quantised."""
        return torch.float32 if self.how.form is WeightForm.TRAINABLE else self.how.dtype

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """See `veneer.model.leaves.Weights`."""
        name = f"{path}.weight"
        packed: PackedLinear | None = None
        weight = None
        if name in self.checkpoint.stored:
            self.how.progress(name)
            packed = self._stored(name)
        elif self.keeps_blocks and path in self.dense and name in self.checkpoint.blocks and not in_experts(path):
            self.how.progress(name)
            packed = self._blocks(name, in_features)
        else:
            before = self.dtype if path in self.dense else self.how.quantised_from
            weight = self._read(name, (out_features, in_features), before)
        bias_tensor = self._read(f"{path}.bias", (out_features,)) if bias else None
        if weight is not None and path not in self.dense:
            packed, weight = pack(weight, bias_tensor, self.how.quant, name), None
        elif packed is not None:
            packed.bias = bias_tensor
        if packed is not None:
            if self.how.products is Products.EXACT:
                for part, tensor in list(packed.named_buffers(recurse=False)):
                    setattr(packed, part, self._held(tensor))
                return packed
            weight = packed.dequantize(self.dtype)
        assert weight is not None
        if self.how.products is Products.INT8:
            return Int8Linear(weight, bias_tensor)
        if self.narrow and not in_experts(path):
            weight = narrowed(weight)
        held = self._parameter(self._held(weight))
        return DenseLinear(held, None if bias_tensor is None else self._parameter(bias_tensor))

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """See `veneer.model.leaves.Weights`."""
        if path in self.checkpoint.stored:
            # A head that is quantised in the files is decoded once, which changes none of its values.
            self.how.progress(path)
            return self._parameter(self._stored(path).dequantize(self.dtype))
        return self._parameter(self._read(path, shape))

    def _held(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a linear layer, in its final memory."""
        placed = self.how.device.type == "cpu" and self.how.form is not WeightForm.TRAINABLE
        return self.slab.copied(tensor) if placed else tensor

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor, requires_grad=self.how.form is WeightForm.TRAINABLE)

    def _read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        self.how.progress(name)
        tensor = self.checkpoint.read(name, dtype or self.dtype)
        if tensor.shape != shape:
            raise ModelError(f"{name} of {self.checkpoint.source} has shape {list(tensor.shape)}, not {list(shape)}")
        return tensor.to(self.how.device)

    def _blocks(self, name: str, columns: int) -> PackedLinear:
        held = self.checkpoint.blocks[name]
        return BlockLinear(held.read(), held.format, columns)

    def _stored(self, name: str) -> PackedLinear:
        return packed_layer(name, self.checkpoint.read_stored(name)).to(self.how.device)


@dataclass(frozen=True, slots=True)
class StreamedTables:
    """Reads embedding and head as the decoder requests them (`veneer.model.leaves.Tables`): in the blocks of a GGUF
    file if it has them so."""

    weights: StreamedWeights

    def embedding(self, path: str, shape: tuple[int, int]) -> TokenLookup:
        """See `Tables`."""
        table = self._blocks(path, shape)
        return DenseTables(self.weights).embedding(path, shape) if table is None else BlockEmbedding(table)

    def head(self, path: str, shape: tuple[int, int]) -> nn.Module:
        """See `Tables`."""
        table = self._blocks(path, shape)
        return DenseTables(self.weights).head(path, shape) if table is None else BlockHead(table)

    def _blocks(self, path: str, shape: tuple[int, int]) -> BlockTable | None:
        held = self.weights.checkpoint.blocks.get(path)
        if held is None:
            return None
        self.weights.how.progress(path)
        return BlockTable(held.read(), held.format, shape[1], self.weights.dtype)


def narrowed(weight: torch.Tensor) -> torch.Tensor:
    """A float32 weight in bfloat16, or else float16, if that represents all its numbers; otherwise the weight
    itself."""
    for dtype in (torch.bfloat16, torch.float16):
        held = copied(weight, dtype)
        if torch.equal(held.float(), weight):
            return held
    return weight
