"""Memory for large weights, in pages of 2 MB where the system has them.

A processor remembers where some thousand pages are. A head of 56 MB has more pages of 4 KB than that, so that each
decoding step looks all of them up again; in a virtual machine one look-up takes two dozen reads of memory. What is
measured of it stands in docs/benchmarks-tried.md.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

LARGE_PAGE = 2 << 20
"""Bytes of a large page on x86, and on Arm with small pages of 4 KB."""
SMALLEST = 2 * LARGE_PAGE
"""Bytes of a tensor from which on it gets large pages."""


def room_for(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Make a contiguous tensor on the CPU whose values are not set yet.

    A large one gets memory of its own, which begins at the start of a large page. Its last, incomplete page stays in
    small ones, so that it takes no more memory than other tensors.

    Raises:
        OSError: there is no address space left (ENOMEM).
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if sys.platform != "linux" or size < SMALLEST:
        return torch.empty(shape, dtype=dtype)
    mapped = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -torch.frombuffer(mapped, dtype=torch.uint8, count=1).data_ptr() % LARGE_PAGE
    with suppress(OSError):  # a kernel that was built without large pages knows no such advice
        mapped.madvise(mmap.MADV_HUGEPAGE, start, size // LARGE_PAGE * LARGE_PAGE)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start).view(shape)


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy a CPU tensor into such memory, in `dtype`."""
    return room_for(tensor.shape, dtype).copy_(tensor)
