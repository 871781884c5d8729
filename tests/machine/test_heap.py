"""glibc's heap, in processes of its own: what the heap of this one holds depends on the tests before."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from veneer.machine.system import free_address_space

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other heaps have no such settings")

THREADS = """
import resource, sys, threading
from veneer.machine.heap import spare_address_space
from veneer.machine.system import address_space

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), -1))
spare_address_space()
before, _ = address_space()
together = threading.Barrier(9)

def allocate():
    held = [bytes(2000) for _ in range(10)]
    together.wait()
    together.wait()

for _ in range(8):
    threading.Thread(target=allocate, daemon=True).start()
together.wait()
print(address_space()[0] - before)
together.wait()
"""

CHURN = """
import ctypes, resource, sys
from contextlib import nullcontext
from veneer.machine.heap import heap_kept

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def churn():
    blocks = [libc.malloc(16 << 20) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in reversed(blocks):
        libc.free(block)

with heap_kept() if sys.argv[1] == "kept" else nullcontext():
    for _ in range(3):
        churn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    churn()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

GROWTH = """
import ctypes, resource, sys
from pathlib import Path
from veneer.machine.heap import heap_kept
from veneer.machine.system import address_space

if sys.argv[1] != "unlimited":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), -1))
before, _ = address_space()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

with heap_kept():
    block = libc.malloc(16 << 20)
    advised = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            start, _, end = fields[0].partition("-")
            inside = int(start, 16) <= block < int(end, 16)
        elif fields[0] == "VmFlags:" and inside:
            advised = "hg" in fields
    resident = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    print(int(advised), address_space()[0] - before, resident)
"""


def printed(program: str, *arguments: str) -> list[int]:
    """The numbers that a program prints."""
    command = [sys.executable, "-c", program, *arguments]
    return [int(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def test_threads_share_a_heap_where_the_address_space_is_limited() -> None:
    limited, unlimited = (printed(THREADS, limit)[0] for limit in (str(1 << 34), "-1"))
    assert unlimited - limited > 4 * (64 << 20)


def test_within_the_block_freed_memory_stays_the_processs() -> None:
    kept, given_back = (printed(CHURN, how)[0] for how in ("kept", "given_back"))
    assert kept < 100
    assert given_back > 1000  # so that the number above says something


def test_within_the_block_the_heap_grows_in_large_pages_and_takes_no_memory_before() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no large pages that are given by themselves")
    if not free_address_space():
        pytest.skip("address space is limited, or counted as memory")
    advised, grown, resident = printed(GROWTH, "unlimited")
    assert advised == 1
    assert grown > 1 << 28
    assert resident * 1024 < 200 << 20


def test_a_limited_address_space_is_not_taken_ahead() -> None:
    advised, grown, _ = printed(GROWTH, str(1 << 34))
    assert advised == 0
    assert grown < 1 << 27


def test_the_heap_does_not_grow_in_pages_of_hundreds_of_megabytes() -> None:
    smaller = "import veneer.machine.heap\nveneer.machine.heap.SMALL_PAGE //= 16\n"
    advised, grown, _ = printed(smaller + GROWTH, "unlimited")
    assert advised == 0
    assert grown < 1 << 27
