"""Starting a Triton kernel: on the device of its tensors, with a number of warps that fits its tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def launch_kernel(
    kernel: Any, grid: tuple[int, ...], on: Tensor, arguments: Sequence[object], constants: Mapping[str, int]
) -> None:
    """Start `kernel` once for every place of `grid`, on the device of `on`.

    Args:
        kernel: a function made by `triton.jit`.
        grid: programs along up to three axes.
        on: a tensor on the device that runs the kernel; Triton itself would use the current device.
        arguments: the positional arguments of the kernel.
        constants: the constants that it is compiled for, and Triton's own settings, such as `num_warps`.

    Products and sums are not fused: every one is rounded, as in the equivalent torch operations, and as the decoding of
    quantised scales requires. The kernels wait for memory, so that this costs nothing.
    """
    with torch.cuda.device_of(on):
        kernel[grid](*arguments, **constants, enable_fp_fusion=False)


def next_power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`, since Triton's tiles have only such sides."""
    return 1 << max(0, size - 1).bit_length()


def warps(elements: int) -> int:
    """The number of warps (32 threads) for a tile of this many elements: 16 elements per thread, from 1 to 16 warps."""
    return max(1, min(16, next_power_of_two(elements) // 512))
