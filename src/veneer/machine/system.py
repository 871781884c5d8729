"""Cores, memory and limits of this process, and the name of its processor, from the operating system.

They are read from /proc and /sys on Linux. On other systems most of them are None, which means unknown. `root` is the
folder that contains `proc` and `sys`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

ROOT = Path("/")
QUOTA_PERIOD = 100_000
"""Microseconds over which version 1 of cgroups counts a quota, by default."""
ADDRESS_SPACE, DATA = "Max address space", "Max data size"
"""Names of limits in /proc/self/limits."""
NO_LIMIT = 2**60
"""Version 1 of cgroups represents "no limit" as a number of bytes above this."""


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted to run, on average over the last minute."""
    return os.getloadavg()[0] if sys.platform != "win32" else None


def processor_name(root: Path = ROOT) -> str | None:
    """The processor's name from its maker; None on Arm, where Linux does not have it."""
    return _field(_text(root / "proc/cpuinfo"), "model name")


def memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Total bytes of memory, and bytes that are available to new programs."""
    text = _text(root / "proc/meminfo")
    amounts = [(_field(text, name) or "").removesuffix(" kB") for name in ("MemTotal", "MemAvailable")]
    total, available = (int(amount) * 1024 if amount.isdecimal() else None for amount in amounts)
    return total, available


def memory_limit(root: Path = ROOT) -> int | None:
    """The memory limit of the process group (a container, a job of a cluster), in bytes."""
    files = _group_files(root, "memory", "memory.max", "memory.limit_in_bytes")
    texts = [_text(file).strip() for file in files]
    return min((int(text) for text in texts if text.isdecimal() and int(text) < NO_LIMIT), default=None)


def address_space(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Bytes of address space that this process uses, and its limit (`ulimit -v`); None for no limit."""
    fields = _text(root / "proc/self/statm").split()
    used = int(fields[0]) * PAGESIZE if fields and fields[0].isdecimal() else None
    soft = _limit(root, ADDRESS_SPACE)
    return used, int(soft) if soft.isdecimal() else None


def free_address_space(root: Path = ROOT) -> bool:
    """Whether address space that is never used costs nothing: no limit counts it (`ulimit -v`, `ulimit -d`), and the
    kernel does not count it as memory (`vm.overcommit_memory` other than 2)."""
    unlimited = all(_limit(root, name) == "unlimited" for name in (ADDRESS_SPACE, DATA))
    return unlimited and _text(root / "proc/sys/vm/overcommit_memory").strip() in ("0", "1")


def _limit(root: Path, name: str) -> str:
    """The limit of this process as the kernel writes it: a number or `unlimited`; empty if it is not known."""
    for line in _text(root / "proc/self/limits").splitlines():
        if line.startswith(name):
            return line.removeprefix(name).split()[0]
    return ""


def heap_addresses(root: Path = ROOT) -> tuple[int, int] | None:
    """The start and the end of this process's heap; None if it has none."""
    for line in _text(root / "proc/self/maps").splitlines():
        if line.endswith("[heap]"):
            start, _, end = line.split()[0].partition("-")
            return int(start, 16), int(end, 16)
    return None


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """How many processes the kernel has killed so far because the memory was full."""

    where: str
    """The file that counts them: that of the process's own group, or that of the machine if groups are not counted."""
    count: int


def memory_kills(root: Path = ROOT) -> MemoryKills | None:
    """The kernel's count of kills that would include a kill of this process."""
    # A kill counts for the victim's own group, in version 2 also for the groups above it: the last is the nearest.
    files = [*_group_files(root, "memory", "memory.events", "memory.oom_control")]
    for file in (*reversed(files), root / "proc/vmstat"):
        for line in _text(file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return MemoryKills(str(file), int(count))
    return None


def core_limit(root: Path = ROOT) -> float | None:
    """The limit of the process group's processor time, in cores."""
    limits = []
    for file in _group_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, _, period = _text(file).strip().partition(" ")
        period = period or _text(file.with_name("cpu.cfs_period_us")).strip()  # version 1 has a separate file
        if quota.isdecimal() and int(quota) > 0:
            limits.append(int(quota) / (int(period) if period.isdecimal() else QUOTA_PERIOD))
    return min(limits, default=None)


def _group_files(root: Path, controller: str, new: str, old: str) -> Iterator[Path]:
    """The files of a name for the process's group and each group above it, in cgroups of version 2 or 1, from the top.

    In a container the kernel may give the host's path, of which only the upper part exists: so all paths are tried.
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
    """The value after `name:` in a file of /proc."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None
