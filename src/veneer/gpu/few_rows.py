"""Whether a GPU multiplies a few rows by a weight as it is stored, and by which kernel (`veneer.gpu.packed`).

Generation multiplies one row for each answer in a step. Decoding a weight for that would read and write four times the
size of its codes. Only the number of rows decides, not whether a decoded weight is already in memory: so the result
does not depend on free memory.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from veneer.gpu.dispatch import GpuChoice, failure, triton_accepts, triton_choice, triton_kernels
from veneer.native.stored import Format, NestedScales, StoredMatrix

MOST_ROWS = 16
"""The largest number of rows for the kernel, that of the tensor cores' smallest tile."""
MIN_CAPABILITY = (8, 0)
"""The oldest GPUs for which Triton compiles matrix products (Ampere)."""
TENSOR_CORE_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes of rows that tensor cores multiply without rounding them first."""

LowRankParts = tuple[Tensor, Tensor, float]
"""left `[rows, rank]`, right `[columns, rank]`, and the factor of their product."""


def packed_product(x: Tensor, weight: StoredMatrix, bias: Tensor | None, update: LowRankParts | None) -> Tensor | None:
    """x Wᵀ + bias + scale · left · rightᵀ in the dtype of x, or None if the weight must be decoded.

    Args:
        x: the rows, `[rows, depth]`.
        weight: the weight in 4 bits or in int8, with its tables, on the device of x.
        bias: the bias, `[columns]`.
        update: the low-rank update that is added.
    """
    if not _fits(x, weight, update) or not packed_choice(x.device, x.dtype).used:
        return None
    kernels = triton_kernels(x)
    return None if kernels is None else kernels.packed_product(x, weight, bias, update)


def _fits(x: Tensor, weight: StoredMatrix, update: LowRankParts | None) -> bool:
    """Whether the kernel is written for these shapes, dtypes and layouts."""
    if x.dim() != 2 or not 1 <= len(x) <= MOST_ROWS or x.dtype not in TENSOR_CORE_DTYPES or not triton_accepts(x):
        return False
    if weight.format is Format.FOUR_BIT:
        # A row begins with a block, and pairs of x are read as one number.
        fits = weight.depth % weight.block == 0 and x.storage_offset() % 2 == 0
    else:
        fits = weight.format is Format.INT8
    if update is None:
        return bool(fits)
    left, right, _ = update
    return bool(fits and left.dtype == right.dtype == x.dtype and left.stride(1) == 1 and right.is_contiguous())


@lru_cache(maxsize=64)
def packed_choice(device: torch.device, dtype: torch.dtype) -> GpuChoice:
    """Whether the kernel is used on a device for rows of a dtype, and why. It is tried once, and must be right.

    Args:
        device: a CUDA device.
        dtype: one of `TENSOR_CORE_DTYPES`.
    """
    whole = triton_choice(device)
    if not whole.used:
        return whole
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        found, needed = (".".join(map(str, version)) for version in (capability, MIN_CAPABILITY))
        return GpuChoice(False, f"{device} has compute capability {found}; products of packed weights need {needed}")
    failed = failure(lambda: is_right(device, dtype))
    if failed is not None:
        return GpuChoice(False, f"{whole.reason} cannot multiply packed weights here ({failed})")
    return whole


def is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel multiplies as the decoded weight does in float64: 3 rows, 40 columns, a depth of 320."""
    rows, columns, depth, rank = 3, 40, 320, 5

    def spread(*shape: int) -> Tensor:
        """Numbers from -1 to 1, neighbours far from each other."""
        count = torch.Size(shape).numel()
        return (torch.arange(count, device=device) * 37 % 101 / 50 - 1).view(shape)

    x, left, right = (spread(*shape).to(dtype) for shape in ((rows, depth), (rows, rank), (columns, rank)))
    blocks = columns * depth // 64
    codes = (torch.arange(columns * depth // 2, device=device) * 89 % 256).to(torch.uint8)
    scale_codes = (torch.arange(blocks, device=device) * 53 % 256).to(torch.uint8)
    values, nested, offset = spread(16), spread(256), torch.full((), 1.5, device=device)
    factors = torch.ones(1, device=device)
    scales = NestedScales(codes=scale_codes, values=nested, factors=factors, offset=offset, block=256)
    weight = StoredMatrix(
        format=Format.FOUR_BIT, columns=columns, depth=depth, codes=codes, values=values, scales=scales, block=64
    )
    pairs = codes.long()
    plain = values[torch.stack((pairs >> 4, pairs & 15), 1).view(blocks, 64)]
    decoded = (plain * (nested[scale_codes.long()] + offset)[:, None]).to(dtype).view(columns, depth)
    kernels = triton_kernels(x)
    assert kernels is not None
    found = kernels.packed_product(x, weight, None, (left, right, 0.5))
    exact = x.double() @ decoded.double().t() + 0.5 * left.double() @ right.double().t()
    return bool((found.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max())
