"""Memory for weights, in pages of 2 MB if the system has them.

A processor caches the addresses of a few thousand pages. A head of 56 MB has more pages of 4 KB than that, so that each
decoding step looks all of them up again. In a virtual machine one look-up takes two dozen memory reads, and a kernel's
prefetch from such a page may be dropped. docs/benchmarks-tried.md has the measurements.
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
"""Bytes from which a tensor gets large pages."""
PIECE = 16 * LARGE_PAGE
"""Bytes that smaller tensors share."""
LEAST, LINE = 4096, 64
"""Bytes of the smallest tensors that share a piece, and the alignment of tensors in it: a cache line."""


def room_for(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Make a contiguous tensor on the CPU whose values are not set yet.

    A large tensor gets memory of its own, which begins at the start of a large page. Its last, incomplete large page
    consists of small pages, so that it takes no more memory than other tensors.

    Raises:
        OSError: there is no address space left (ENOMEM).
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if sys.platform != "linux" or size < SMALLEST:
        return torch.empty(shape, dtype=dtype)
    mapped = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -torch.frombuffer(mapped, dtype=torch.uint8, count=1).data_ptr() % LARGE_PAGE
    with suppress(OSError):  # a kernel that was built without large pages refuses the advice
        mapped.madvise(mmap.MADV_HUGEPAGE, start, size // LARGE_PAGE * LARGE_PAGE)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start).view(shape)


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy a CPU tensor into memory of `room_for`, in `dtype`."""
    return room_for(tensor.shape, dtype).copy_(tensor)


class Slab:
    """Makes copies of tensors in such memory.

    Tensors that are too small for pages of their own, such as the layers of a small model, are packed one after the
    other. A piece of memory is released with the last tensor in it.
    """

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._filled = 0
        """The number of bytes of the piece that are in use."""

    def copied(self, tensor: Tensor) -> Tensor:
        """Copy a CPU tensor. A tensor that is smaller than a small page, or large and already aligned, is returned as
        it is.

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
        # Each tensor has a storage of its own, so that saving one does not save the whole piece.
        room = torch.frombuffer(self._piece.numpy(), dtype=tensor.dtype, count=tensor.numel(), offset=self._filled)
        self._filled += -(-size // LINE) * LINE
        return room.view(tensor.shape).copy_(tensor)
