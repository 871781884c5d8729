"""Cores, memory and limits of this process, and the name of its processor, by the operating system.

They are read from /proc and /sys of Linux. On other systems most of them are None, which means unknown. `root` is the
folder that has `proc` and `sys`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

ROOT = Path("/")
QUOTA_PERIOD = 100_000
"""Microseconds over which version 1 of cgroups counts a quota, unless it says otherwise."""
ADDRESS_SPACE = "Max address space"
"""Name of the limit in /proc/self/limits."""
NO_LIMIT = 2**60
"""Version 1 of cgroups writes "no limit" as a number of bytes above this."""

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""mallopt(3)'s numbers of M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX."""
LARGEST_HEAP_BLOCK = 32 << 20
"""Bytes from which glibc maps every block by itself; the most that it allows, and where its own rule ends up."""


@contextmanager
def heap_kept() -> Iterator[None]:
    """Within the block glibc keeps memory that is freed at the end of its heap, for the next step.

    By default glibc gives memory back to the system above some size, which depends on earlier frees. Each step then
    gets its activations again as zeroed pages, which takes up to 10 % of a LoRA step on a 135M model. The peak is
    reached in every step, so that giving memory back saves nothing. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)  # setting one of the two ends glibc's own choice of both
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_HEAP_BLOCK)  # as glibc's own rule has it
        libc.malloc_trim(0)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted to run, on average over the last minute."""
    return os.getloadavg()[0] if sys.platform != "win32" else None


def processor_name(root: Path = ROOT) -> str | None:
    """The processor's name by its maker; None on Arm, where Linux does not have it."""
    return _field(_text(root / "proc/cpuinfo"), "model name")


def memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Bytes of memory in all, and bytes that are available to new programs."""
    text = _text(root / "proc/meminfo")
    amounts = [(_field(text, name) or "").removesuffix(" kB") for name in ("MemTotal", "MemAvailable")]
    total, available = (int(amount) * 1024 if amount.isdecimal() else None for amount in amounts)
    return total, available


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the process group (a container, a job of a cluster) may take at most."""
    files = _group_files(root, "memory", "memory.max", "memory.limit_in_bytes")
    texts = [_text(file).strip() for file in files]
    return min((int(text) for text in texts if text.isdecimal() and int(text) < NO_LIMIT), default=None)


def address_space(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Bytes of address space that this process has, and the most that it may have (`ulimit -v`); None for no limit."""
    fields = _text(root / "proc/self/statm").split()
    used = int(fields[0]) * PAGESIZE if fields and fields[0].isdecimal() else None
    for line in _text(root / "proc/self/limits").splitlines():
        if line.startswith(ADDRESS_SPACE):
            soft = line.removeprefix(ADDRESS_SPACE).split()[0]
            return used, int(soft) if soft.isdecimal() else None
    return used, None


def spare_address_space(root: Path = ROOT) -> None:
    """Where the address space is limited (`ulimit -v`), let all threads of the process share one heap from now on.

    By default glibc reserves 64 MB of address space for the heap of each new thread. Without glibc this does nothing.
    """
    if address_space(root)[1] is not None and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """How many processes the kernel has killed so far because the memory was full."""

    where: str
    """The file that counts them: that of the process's own group, or where groups are not counted, of the machine."""
    count: int


def memory_kills(root: Path = ROOT) -> MemoryKills | None:
    """The kernel's count of kills among which one of this process would be."""
    # A kill is counted for the victim's own group, by version 2 also for those above it: the last is the nearest.
    files = [*_group_files(root, "memory", "memory.events", "memory.oom_control")]
    for file in (*reversed(files), root / "proc/vmstat"):
        for line in _text(file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return MemoryKills(str(file), int(count))
    return None


def core_limit(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the process group may take."""
    limits = []
    for file in _group_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, _, period = _text(file).strip().partition(" ")
        if quota.isdecimal() and int(quota) > 0:
            limits.append(int(quota) / (int(period) if period.isdecimal() else QUOTA_PERIOD))
    return min(limits, default=None)


def _group_files(root: Path, controller: str, new: str, old: str) -> Iterator[Path]:
    """The files of a name for the process's group and each group above it, in cgroups of version 2 or 1, from above.

    In a container the kernel may tell the host's path, of which only the upper end is there: so all are tried.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, name = root / "sys/fs/cgroup", new
        elif controller in controllers.split(","):
            base, name = root / "sys/fs/cgroup" / controller, old
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts) + 1):
            file = base.joinpath(*parts[:count], name)
            if file.is_file():
                yield file


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str | None:
    """The value behind `name:` in a file of /proc."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None
