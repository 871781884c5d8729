"""Decoding 4-bit weights in Triton: one launch, whether the scales are plain or quantised themselves.

The layout is that of `veneer.quant.codes`: element 2i in the high nibble of byte i, 2i + 1 in the low one; scale j for
elements j·block to (j + 1)·block. A value is code · scale in float32, rounded once to the dtype of the result, and a
nested scale is map[code] · absmax + offset with both steps rounded, so that float32 results are those of the reference
to the last bit.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from veneer.gpu.launch import launch_kernel, warps
from veneer.native.stored import NestedScales, StoredMatrix

_ELEMENTS = 4096
"""Weights that one program decodes."""


@triton.jit
def block_scales(
    block: tl.tensor,
    inside: tl.tensor,
    scales: tl.tensor,
    nested_values: tl.tensor,
    nested_factors: tl.tensor,
    nested_offset: tl.tensor,
    NESTED_BLOCK: tl.constexpr,
) -> tl.tensor:
    """The scales of the blocks that are `inside`; the values for others are undefined."""
    if NESTED_BLOCK > 0:
        code = tl.load(scales + block, mask=inside, other=0).to(tl.int32)
        factor = tl.load(nested_factors + block // NESTED_BLOCK, mask=inside, other=0.0)
        scale = tl.load(nested_values + code) * factor + tl.load(nested_offset)
    else:
        scale = tl.load(scales + block, mask=inside, other=0.0)
    return scale


@triton.jit
def _decode(
    codes: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    nested_values: tl.tensor,
    nested_factors: tl.tensor,
    nested_offset: tl.tensor,
    out: tl.tensor,
    code_bytes: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row * BLOCK < count
    scale = block_scales(row, present, scales, nested_values, nested_factors, nested_offset, NESTED_BLOCK)
    byte_place = row[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    pair = tl.load(codes + byte_place, mask=byte_place < code_bytes, other=0).to(tl.int32)
    # The code book is 64 bytes, one line of the L1 cache.
    value = tl.interleave(tl.load(values + (pair >> 4)), tl.load(values + (pair & 15))) * scale[:, None]
    place = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < count)


def scale_tensors(weight: StoredMatrix) -> tuple[tuple[Tensor, ...], int]:
    """The arguments of `block_scales`: scales, nested values, factors and offset, and the nested block, 0 for plain
    scales.

    Plain scales are passed for the tensors that they do not have.
    """
    scales = weight.scales
    if isinstance(scales, NestedScales):
        return (scales.codes, scales.values, scales.factors, scales.offset), scales.block
    assert scales is not None
    return (scales, scales, scales, scales), 0


def dequantize_4bit(weight: StoredMatrix, out: Tensor) -> None:
    """Decode a weight into `out`, whose n elements are contiguous; float32, bfloat16 or float16."""
    assert weight.values is not None
    scales, nested_block = scale_tensors(weight)
    rows = max(1, _ELEMENTS // weight.block)
    constants = {
        "BLOCK": weight.block, "ROWS": rows, "NESTED_BLOCK": nested_block, "num_warps": warps(rows * weight.block)
    }  # fmt: skip
    count = out.numel()
    arguments = (weight.codes, weight.values, *scales, out, weight.codes.numel(), count)
    launch_kernel(_decode, (-(-count // (rows * weight.block)),), out, arguments, constants)
