"""Machines as their files in /proc and /sys describe them, and the heap of a process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from veneer import system

GIB = 2**30


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_processor_and_memory_are_those_of_proc(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: A processor @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: other\n",
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n",
    }
    written(tmp_path, files)
    assert system.processor_name(tmp_path) == "A processor @ 2 GHz"
    assert system.memory(tmp_path) == (16 * GIB, 8 * GIB)


def test_what_the_system_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert system.processor_name(tmp_path) is None
    assert system.memory(tmp_path) == (None, None)
    assert system.memory_limit(tmp_path) is None
    assert system.core_limit(tmp_path) is None
    written(tmp_path, {"proc/meminfo": "MemTotal: many kB\n", "proc/self/cgroup": "nonsense\n0::/\n"})
    assert system.memory(tmp_path) == (None, None)
    assert system.memory_limit(tmp_path) is None


V1 = "4:memory:/job/7\n2:cpu,cpuacct:/job/7\n1:name=systemd:/\n"
UNLIMITED = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cores"),
    [
        ("0::/\n", {"memory.max": "2147483648\n", "cpu.max": "150000 100000\n"}, 2 * GIB, 1.5),
        ("0::/\n", {"memory.max": "max\n", "cpu.max": "max 100000\n"}, None, None),
        # The limit of a group above is a limit too.
        ("0::/a/b\n", {"a/memory.max": "1073741824", "a/b/memory.max": "2147483648"}, GIB, None),
        # A container that is told the host's path sees its own group at the top.
        ("0::/docker/123\n", {"memory.max": "1073741824", "cpu.max": "50000 100000"}, GIB, 0.5),
        ("0::/../x\n", {"x/memory.max": "1073741824"}, GIB, None),
        (V1, {"memory/job/memory.limit_in_bytes": "1073741824", "memory/memory.limit_in_bytes": UNLIMITED}, GIB, None),
        (V1, {"cpu/job/7/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_quota_us": "-1"}, None, 4.0),
    ],
)
def test_limits_of_the_process_group(
    groups: str, files: dict[str, str], memory: int | None, cores: float | None, tmp_path: Path
) -> None:
    written(tmp_path, {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
    assert system.memory_limit(tmp_path) == memory
    assert system.core_limit(tmp_path) == cores


@pytest.mark.parametrize(
    ("groups", "files", "kills"),
    [
        ("0::/job\n", {"sys/fs/cgroup/job/memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"}, 3),
        (V1, {"sys/fs/cgroup/memory/job/7/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2),
        # Version 1 counts a kill for the victim's group alone, and those above it have more for other reasons.
        (
            V1,
            {
                "sys/fs/cgroup/memory/memory.oom_control": "oom_kill 9\n",
                "sys/fs/cgroup/memory/job/7/memory.oom_control": "oom_kill 2\n",
            },
            2,
        ),
        # In a container the path may be the host's, of which only the upper end is there.
        (V1, {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill 9\n"}, 9),
        ("0::/\n", {"proc/vmstat": "pgfault 12\noom_kill 5\n"}, 5),
        ("0::/\n", {}, None),
    ],
)
def test_the_kernels_count_of_kills_for_want_of_memory(
    groups: str, files: dict[str, str], kills: int | None, tmp_path: Path
) -> None:
    written(tmp_path, {"proc/self/cgroup": groups, **files})
    found = system.memory_kills(tmp_path)
    assert (None if found is None else found.count) == kills
    assert found is None or found.where in {str(tmp_path / name) for name in files}


def test_the_address_space_and_its_limit(tmp_path: Path) -> None:
    line = "Max address space         {}            unlimited            bytes     \n"
    written(tmp_path, {"proc/self/statm": "1000 10 1 1 0 1 0\n", "proc/self/limits": line.format("8192000")})
    assert system.address_space(tmp_path) == (1000 * system.PAGESIZE, 8192000)
    written(tmp_path, {"proc/self/limits": line.format("unlimited")})
    assert system.address_space(tmp_path) == (1000 * system.PAGESIZE, None)
    assert system.address_space(tmp_path / "none") == (None, None)


THREADS = """
import resource, sys, threading
from veneer.system import address_space, spare_address_space

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other heaps are not one for each thread")
def test_threads_share_a_heap_where_the_address_space_is_limited() -> None:
    grown = []
    for limit in (1 << 34, -1):
        command = [sys.executable, "-c", THREADS, str(limit)]
        grown.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert grown[1] - grown[0] > 4 * (64 << 20)


def test_this_machine_has_cores_and_perhaps_a_load() -> None:
    assert system.available_cores() >= 1
    load = system.load_average()
    assert load is None or load >= 0


CHURN = """
import ctypes, resource, sys
from contextlib import nullcontext
from veneer.system import heap_kept

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


def test_within_the_block_freed_memory_stays_the_processs(tmp_path: Path) -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc's heap is kept")
    # In a process of its own: what the heap of this one holds depends on the tests before.
    script = tmp_path / "churn.py"
    script.write_text(CHURN, encoding="utf-8")
    kept, given_back = (
        int(subprocess.run([sys.executable, script, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "given_back")
    )
    assert kept < 100
    assert given_back > 1000  # so that the number above says something
