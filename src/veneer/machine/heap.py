"""glibc's heap: how much of it the process keeps, and the size of the pages in which it grows.

Other C libraries have no such settings, and these functions do nothing with them.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from veneer.machine.system import address_space, free_address_space, heap_addresses, memory

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
"""mallopt(3)'s numbers of these settings."""
LARGEST_HEAP_BLOCK = 32 << 20
"""Bytes from which glibc maps every block separately; the largest value that it allows, which its own rule reaches."""
MAPPED_BLOCKS = 65_536
"""The largest number of separately mapped blocks in glibc, unless it is configured otherwise."""
SMALL_PAGE = 4096
"""Bytes of a small page on systems whose large pages have 2 MB. With small pages of 64 KB (some kernels for Arm) large
pages have 512 MB, which is more than a heap should grow by."""


@contextmanager
def heap_kept() -> Iterator[None]:
    """Within the block glibc keeps memory that is freed at the end of its heap, and grows it in pages of 2 MB.

    By default glibc returns freed memory to the system above some size, which depends on earlier frees. Each step then
    gets its activations again as zeroed pages, which takes up to 10 % of a LoRA step on a 135M model. Every step
    reaches the peak, so that returning memory saves nothing.

    Activations have more small pages than a processor's address cache (TLB) holds, and prefetching stops at the end of
    a page. Pages of 2 MB save 4 to 11 % of such a step, and the peak memory stays the same.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = _libc()
    libc.mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)  # setting one of the two ends glibc's own choice of both
    libc.mallopt(TRIM_THRESHOLD, -1)
    _extend_in_large_pages(libc)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_HEAP_BLOCK)  # as glibc's own rule has it
        libc.malloc_trim(0)


def _extend_in_large_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap by the amount of available memory, and ask for large pages in all of it.

    The kernel accepts this advice only for existing addresses, and a small page in use stays small. Therefore the heap
    first gets its addresses, and returns the pages that nobody uses. Pages that are never used take no memory.
    """
    available = memory()[1]
    if available is None or mmap.PAGESIZE != SMALL_PAGE or not free_address_space():
        return
    libc.malloc_trim(0)
    libc.mallopt(MMAP_MAX, 0)  # else so large a block would be mapped by itself
    libc.free(libc.malloc(available))
    libc.mallopt(MMAP_MAX, MAPPED_BLOCKS)
    heap = heap_addresses()
    if heap is not None:
        start, end = heap
        libc.madvise(start, end - start, mmap.MADV_HUGEPAGE)  # refused by a kernel that was built without them


def spare_address_space() -> None:
    """Let all threads of the process share one heap from now on, if the address space is limited (`ulimit -v`).

    By default glibc reserves 64 MB of address space for the heap of each new thread.
    """
    if address_space()[1] is not None and platform.libc_ver()[0] == "glibc":
        _libc().mallopt(ARENA_MAX, 1)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
