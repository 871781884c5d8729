"""Products of a few rows with a packed weight in Triton: codes and scales are read once, and no decoded copy is made.

    y = x Wᵀ + scale · left · rightᵀ + bias
    x [rows, depth], W [columns, depth], left [rows, rank], right [columns, rank]

A program computes 32 columns of all rows. It goes along the depth in steps: it requests the bytes of the next step,
decodes those that have arrived, and tensor cores multiply. A weight is rounded to the dtype of x once, as in separate
decoding (`veneer.gpu.quant`), so that both ways multiply by equal numbers. The sums stay float32 to their end.

The layouts are those of `veneer.quant.codes` (4 bits; a row begins with a block, so that the depth is a multiple of the
block) and of `veneer.quant.rowwise` (8 bits, a scale for each row).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from veneer.gpu.launch import launch_kernel, next_power_of_two
from veneer.gpu.quant import block_scales, scale_tensors
from veneer.native.stored import Format, StoredMatrix

TILE_ROWS = 16
"""Rows of the tensor cores' smallest tile: fewer are made up with zeros, at no cost of memory."""
_COLUMNS, _BYTES, _RANK = 32, 128, 64
"""Columns of a program, bytes of a column's codes that it reads at a time, and ranks of an update."""
_WARPS = 4
_EIGHT_BIT_REGISTERS = 128
"""Registers of a thread over 8 bits. Left to itself, NVIDIA's assembler keeps a few bytes in memory on some cards, so
that more programs are side by side."""


@triton.jit
def _scaled(value: tl.tensor, scale: tl.tensor, dtype: tl.constexpr, GROUP: tl.constexpr) -> tl.tensor:
    """Values `[COLUMNS, BYTES]`, each times the scale of its group `[COLUMNS, BYTES // GROUP]`, in `dtype`."""
    grouped = tl.reshape(value, (value.shape[0], value.shape[1] // GROUP, GROUP)) * scale[:, :, None]
    return tl.reshape(grouped.to(dtype), (value.shape[0], value.shape[1]))


@triton.jit
def _plus_pairs(
    sums: tl.tensor,
    own: tl.tensor,
    code: tl.tensor,
    scale: tl.tensor,
    values: tl.tensor,
    dtype: tl.constexpr,
    GROUP: tl.constexpr,
) -> tl.tensor:
    """The sums with a step's products in 4 bits: each byte of `code` `[COLUMNS, BYTES]` has the codes of two weights,
    and each word of `own` `[ROWS, BYTES]` the two numbers of x that they are multiplied by."""
    pair = code.to(tl.int32)
    high = _scaled(tl.load(values + (pair >> 4)), scale, dtype, GROUP)
    low = _scaled(tl.load(values + (pair & 15)), scale, dtype, GROUP)
    even = own.to(tl.int16).to(dtype, bitcast=True)
    odd = (own >> 16).to(tl.int16).to(dtype, bitcast=True)
    sums = tl.dot(even, tl.trans(high), sums)
    return tl.dot(odd, tl.trans(low), sums)


@triton.jit
def _update(
    left: tl.tensor,
    right: tl.tensor,
    row: tl.tensor,
    given: tl.tensor,
    column: tl.tensor,
    present: tl.tensor,
    left_stride: tl.tensor,
    rank: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    """left · rightᵀ for the columns of a program, float32 `[ROWS, COLUMNS]`."""
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, rank, RANK):
        place = first + tl.arange(0, RANK)
        small = (place < rank)[None, :]
        own = tl.load(left + row[:, None] * left_stride + place[None, :], mask=given[:, None] & small, other=0.0)
        factor = tl.load(right + column[:, None] * rank + place[None, :], mask=present[:, None] & small, other=0.0)
        sums = tl.dot(own, tl.trans(factor), sums)
    return sums


@triton.jit
def _packed_product(
    x: tl.tensor,
    codes: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    nested_values: tl.tensor,
    nested_factors: tl.tensor,
    nested_offset: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_bytes: tl.tensor,
    left_stride: tl.tensor,
    rank: tl.tensor,
    update_scale: tl.tensor,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BYTES: tl.constexpr,
    RANK: tl.constexpr,
    BIAS: tl.constexpr,
) -> None:
    row, column = tl.arange(0, ROWS), tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    given, present = row < rows, column < columns
    byte = tl.arange(0, BYTES)
    line = codes + column[:, None] * row_bytes + byte[None, :]
    if BLOCK == 0:
        row_scale = tl.load(scales + column, mask=present, other=0.0)[:, None]
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    code = tl.load(line, mask=present[:, None] & (byte < row_bytes)[None, :], other=0)
    for start in range(0, row_bytes, BYTES):
        # They are on their way while those before them are decoded and multiplied.
        behind = start + BYTES
        following = tl.load(line + behind, mask=present[:, None] & (behind + byte < row_bytes)[None, :], other=0)
        place = start + byte
        own = tl.load(
            x + row[:, None] * row_bytes + place[None, :], mask=given[:, None] & (place < row_bytes)[None, :], other=0
        )
        if BLOCK > 0:
            group = start + tl.arange(0, BYTES // GROUP) * GROUP
            inside = present[:, None] & (group < row_bytes)[None, :]
            block = column[:, None] * (row_bytes // BLOCK) + (group // BLOCK)[None, :]
            scale = block_scales(block, inside, scales, nested_values, nested_factors, nested_offset, NESTED_BLOCK)
            sums = _plus_pairs(sums, own, code, scale, values, y.dtype.element_ty, GROUP)
        else:
            # 1 / 127 as `veneer.quant.rowwise` writes it, and in its order.
            weight = (code.to(tl.float32) * row_scale * 7.874015718698502e-3).to(y.dtype.element_ty)
            sums = tl.dot(own, tl.trans(weight), sums)
        code = following
    if RANK > 0:
        update = _update(left, right, row, given, column, present, left_stride, rank, ROWS, COLUMNS, RANK)
        sums += update * update_scale
    if BIAS:
        sums += tl.load(bias + column, mask=present, other=0.0).to(y.dtype.element_ty).to(tl.float32)[None, :]
    place = row[:, None] * columns + column[None, :]
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=given[:, None] & present[None, :])


def packed_product(
    x: Tensor, weight: StoredMatrix, bias: Tensor | None, update: tuple[Tensor, Tensor, float] | None
) -> Tensor:
    """x Wᵀ + bias + update, `[rows, columns]` in the dtype of x, rounded once.

    Args:
        x: `[rows, depth]`, contiguous, bfloat16 or float16; at most `TILE_ROWS` rows.
        weight: the weight in 4 bits, if its depth is a multiple of its block, or in int8; its tensors are contiguous.
        bias: `[columns]` in bfloat16, float16 or float32; rounded to the dtype of x.
        update: left `[rows, rank]`, whose rows are contiguous, right `[columns, rank]`, contiguous, both in the dtype
            of x, and the factor of their product.
    """
    paired = weight.format is Format.FOUR_BIT
    scales, nested_block = scale_tensors(weight)
    left, right, factor = (x, x, 1.0) if update is None else update
    rank = 0 if update is None else left.shape[1]
    y = torch.empty((len(x), weight.columns), dtype=x.dtype, device=x.device)
    inputs = x.view(torch.int32) if paired else x
    values = weight.codes if weight.values is None else weight.values
    tensors = (inputs, weight.codes, values, *scales, left, right, y if bias is None else bias, y)
    sizes = (len(x), weight.columns, inputs.shape[1], left.stride(0), rank, float(factor))
    block = weight.block // 2 if paired else 0
    constants = {
        "BLOCK": block, "GROUP": min(block, _BYTES), "NESTED_BLOCK": nested_block,
        "ROWS": TILE_ROWS, "COLUMNS": _COLUMNS, "BYTES": _BYTES,
        "RANK": min(_RANK, max(16, next_power_of_two(rank))) if rank else 0, "BIAS": bias is not None,
        "num_warps": _WARPS, "num_stages": 1,
    }  # fmt: skip
    if not paired:
        constants["maxnreg"] = _EIGHT_BIT_REGISTERS
    launch_kernel(_packed_product, (-(-weight.columns // _COLUMNS),), x, (*tensors, *sizes), constants)
    return y
