"""Machines as their files in /proc and /sys describe them."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.machine import system

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
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "25000\n"}, None, 2.0),
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


@pytest.mark.parametrize(
    ("space", "data", "overcommit", "free"),
    [
        ("unlimited", "unlimited", "0", True),
        ("unlimited", "unlimited", "1", True),
        ("unlimited", "unlimited", "2", False),
        ("8192000", "unlimited", "0", False),
        ("unlimited", "8192000", "0", False),
    ],
)
def test_address_space_is_free_where_nothing_counts_it(
    tmp_path: Path, space: str, data: str, overcommit: str, free: bool
) -> None:
    line = "Max {}            {}            unlimited            bytes\n"
    limits = line.format("data size", data) + line.format("address space", space)
    written(tmp_path, {"proc/self/limits": limits, "proc/sys/vm/overcommit_memory": overcommit + "\n"})
    assert system.free_address_space(tmp_path) is free
    assert not system.free_address_space(tmp_path / "none")


def test_the_heap_is_where_the_kernel_says(tmp_path: Path) -> None:
    program = "55d0c0000000-55d0c0001000 r--p 00000000 fe:00 1 /bin/cat\n"
    heap = "55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]\n"
    written(tmp_path, {"proc/self/maps": program + heap})
    assert system.heap_addresses(tmp_path) == (0x55D0C1000000, 0x55D0C1021000)
    assert system.heap_addresses(tmp_path / "none") is None


def test_this_machine_has_cores_and_perhaps_a_load() -> None:
    assert system.available_cores() >= 1
    load = system.load_average()
    assert load is None or load >= 0
