"""Layers in every format in which the compiled library reads weights, and shapes to try them with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from torch import Tensor

from veneer.model.leaves import DenseLinear
from veneer.native.stored import Format, HoldsStored
from veneer.quant.blocks import LAYOUTS, WEIGHTS_PER_BLOCK, BlockLinear
from veneer.quant.codes import CodeBook
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.rowwise import RowwiseLinear

DENSE = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(1, 1), (1, 64), (7, 3), (33, 96), (48, 128), (100, 576), (65, 200), (16, 31), (19, 1088), (5, 4224)]
"""Columns and depth: whole and partial units of columns, and chunks of depth; blocks that go on in the next row."""
ROWS = [*range(1, 10), 16, 33]


def dense(dtype: torch.dtype) -> Callable[[Tensor], HoldsStored]:
    return lambda weight: DenseLinear(torch.nn.Parameter(weight.to(dtype), requires_grad=False))


def four_bit(codebook: CodeBook, block: int, *, double: bool) -> Callable[[Tensor], HoldsStored]:
    config = QuantConfig(block=block, double_quant=double, codebook=codebook)
    return lambda weight: QuantLinear.from_weight(weight, config=config)


def blocks(kind: Format) -> Callable[[Tensor], HoldsStored]:
    """GGUF's format, by the gguf package."""
    return lambda weight: BlockLinear(
        torch.from_numpy(quantize(weight.numpy(), Kind[kind.name])), kind, weight.shape[1]
    )


LAYERS: dict[str, Callable[[Tensor], HoldsStored]] = {
    **{str(dtype): dense(dtype) for dtype in DENSE},
    "int8": RowwiseLinear.from_weight,
    "nf4": four_bit(CodeBook.NF4, 64, double=False),
    "nf4, double": four_bit(CodeBook.NF4, 64, double=True),
    "nf4 in blocks of 32": four_bit(CodeBook.NF4, 32, double=True),
    "fp4 in blocks of 256": four_bit(CodeBook.FP4, 256, double=False),
    **{kind.name: blocks(kind) for kind in LAYOUTS},
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def fits(kind: str, depth: int) -> bool:
    """Whether rows of this length can be stored so."""
    return kind not in Format.__members__ or depth % WEIGHTS_PER_BLOCK == 0


def layer_of(kind: str, columns: int, depth: int) -> tuple[HoldsStored, Tensor]:
    """A layer, and its weight in float32."""
    layer = LAYERS[kind](0.3 * torch.randn(columns, depth))
    return layer, layer.dequantize(torch.float32)  # type: ignore[attr-defined]
