"""Memory for weights, in pages of 2 MB where the system has them.

A processor remembers where some thousand pages are. A head of 56 MB has more pages of 4 KB than that, so that each
decoding step looks all of them up again; in a virtual machine one look-up takes two dozen reads of memory, and what a
kernel fetches ahead from such a page may not come. What is measured of it stands in docs/benchmarks-tried.md.
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
PIECE = 16 * LARGE_PAGE
"""Bytes that smaller tensors share."""
LEAST, LINE = 4096, 64
"""Bytes of the smallest of them, and those that their places are multiples of: a line of the processor's cache."""


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
    """Copy a CPU tensor into memory of `room_for`, in `dtype`."""
    return room_for(tensor.shape, dtype).copy_(tensor)


class Slab:
    """Makes copies of tensors in such memory.

    Those that are too small for pages of their own, as the layers of a small model are, stand one behind the other. A
    piece of memory goes back with the last tensor in it.
    """

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._filled = 0
        """Bytes of the piece that tensors have."""

    def copied(self, tensor: Tensor) -> Tensor:
        """Copy a CPU tensor. One that is smaller than a small page or already begins a large one is returned as it is.

        Raises:
            OSError: there is no address space left (ENOMEM).
        """
        size = tensor.nbytes
        if sys.platform != "linux" or size < LEAST or (size >= SMALLEST and tensor.data_ptr() % LARGE_PAGE == 0):
            return tensor
        if size >= SMALLEST:
            return copied(tensor, tensor.dtype)
        if self._filled + size > len(self._piece):
            self._piece, self._filled = room_for([PIECE], torch.uint8), 0
        # A storage of its own for each tensor, so that writing one does not write the piece.
        room = torch.frombuffer(self._piece.numpy(), dtype=tensor.dtype, count=tensor.numel(), offset=self._filled)
        self._filled += -(-size // LINE) * LINE
        return room.view(tensor.shape).copy_(tensor)
