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

from veneer.gpu.launch import launch, warps

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
    """The scales of the blocks that are `inside`; what stands for others means nothing."""
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
    nested_absmax: tl.tensor,
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
    scale = block_scales(row, present, scales, nested_values, nested_absmax, nested_offset, NESTED_BLOCK)
    byte_place = row[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    pair = tl.load(codes + byte_place, mask=byte_place < code_bytes, other=0).to(tl.int32)
    # The code book is 64 bytes, one line of the L1 cache.
    value = tl.interleave(tl.load(values + (pair >> 4)), tl.load(values + (pair & 15))) * scale[:, None]
    place = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < count)


def dequantize_4bit(codes: Tensor, values: Tensor, absmax: Tensor, block: int, out: Tensor) -> None:
    """Decode into `out`.

    Args:
        codes: uint8 `[ceil(n / 2)]`.
        values: what each of the 16 codes means, float32.
        absmax: scales, float32 `[ceil(n / block)]`.
        block: weights a scale, a power of two from 32 to 4096.
        out: n elements, contiguous; float32, bfloat16 or float16.
    """
    _launch((codes, values, absmax, values, values, values, out), block, 0)


def dequantize_4bit_nested(
    codes: Tensor,
    values: Tensor,
    absmax_codes: Tensor,
    nested_values: Tensor,
    nested_absmax: Tensor,
    nested_offset: Tensor,
    block: int,
    nested_block: int,
    out: Tensor,
) -> None:
    """Decode into `out` where the scales are quantised; other arguments as `dequantize_4bit`.

    Args:
        absmax_codes: uint8 `[ceil(n / block)]`.
        nested_values: what each of the 256 codes of a scale means, float32.
        nested_absmax: scales of the scales, float32 `[ceil(blocks / nested_block)]`.
        nested_offset: added to every scale, float32, 0-D.
        nested_block: scales that share one nested scale.
    """
    tensors = (codes, values, absmax_codes, nested_values, nested_absmax, nested_offset, out)
    _launch(tensors, block, nested_block)


def _launch(tensors: tuple[Tensor, ...], block: int, nested_block: int) -> None:
    out = tensors[-1]
    rows = max(1, _ELEMENTS // block)
    constants = {"BLOCK": block, "ROWS": rows, "NESTED_BLOCK": nested_block, "num_warps": warps(rows * block)}
    count = out.numel()
    launch(_decode, (-(-count // (rows * block)),), out, (*tensors, tensors[0].numel(), count), constants)
