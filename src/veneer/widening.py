"""Products in bfloat16 by way of float32, on a CPU where torch has no vector code for them.

Torch leaves its products in 16 bits to oneDNN, which needs AVX-512 for bfloat16 on x86. Elsewhere it goes through them
number by number, and takes some ten to twenty times as long as for the same product in float32. Here some rows at a
time are widened to float32, multiplied by veneer's own kernels, and rounded once.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from veneer.native.functions import Kernels
from veneer.native.library import kernels
from veneer.native.stored import StoredMatrix

WIDENED = 4_000_000
"""The most numbers of inputs and outputs together that are widened at a time."""
LEAST_ROWS = 16
"""The least number of rows that are widened at a time, however many numbers a row has."""


@cache
def torch_multiplies(dtype: torch.dtype) -> bool:
    """Whether torch has vector code for products in `dtype` on this machine's processor."""
    if dtype.itemsize != 2:
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    ask = torch.ops.mkldnn
    return bool(ask._is_mkldnn_bf16_supported() if dtype is torch.bfloat16 else ask._is_mkldnn_fp16_supported())


def widened(x: Tensor) -> bool:
    """Whether products of x are computed by way of float32."""
    if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or torch_multiplies(x.dtype):
        return False
    return kernels() is not None


def widened_rows(rows: int, width: int) -> int:
    """How many of `rows` are widened at a time if a row's inputs and outputs have `width` numbers."""
    return min(rows, max(LEAST_ROWS, WIDENED // width))


def product_in_parts(
    native: Kernels,
    x: Tensor,
    weight: StoredMatrix,
    update: tuple[Tensor, StoredMatrix] | None,
    bias: Tensor | None,
    scale: float,
    y: Tensor,
    *,
    by_outputs: bool,
) -> None:
    """Fill y as `Kernels.frozen_product` does, where x, y and the update's left factor are bfloat16.

    The kernel's bits of a row do not depend on the other rows, so the parts change nothing.
    """
    rows = widened_rows(len(x), x.shape[1] + y.shape[1])
    for start in range(0, len(x), max(1, rows)):
        part = slice(start, start + rows)
        wide = torch.empty_like(y[part], dtype=torch.float32)
        own = None if update is None else (update[0][part].float(), update[1])
        native.frozen_product(x[part].float(), weight, own, bias, scale, wide, by_outputs=by_outputs)
        y[part] = wide


def sum_in_parts(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right, `[tokens, m]` and `[tokens, n]` to `[m, n]` in float32."""
    found = torch.zeros((left.shape[1], right.shape[1]))
    rows = widened_rows(len(left), left.shape[1] + right.shape[1])
    for start in range(0, len(left), max(1, rows)):
        part = slice(start, start + rows)
        found.addmm_(left[part].float().t(), right[part].float())
    return found
