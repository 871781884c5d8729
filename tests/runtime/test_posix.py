"""What POSIX alone has: locks that exclude, memory that is counted, and a plain refusal where a module is missing."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from veneer.runtime.posix import lock_file, peak_resident_bytes, read_at, release_pages, restart_peak_resident_bytes

WITHOUT_POSIX = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None  # as where there is no such module
"""


def without_posix(code: str) -> subprocess.CompletedProcess[str]:
    """A child process in which POSIX's own modules cannot be imported."""
    return subprocess.run([sys.executable, "-c", WITHOUT_POSIX + code], capture_output=True, text=True, check=False)


def test_a_lock_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as first, path.open("w") as second:
        lock_file(first)
        with pytest.raises(BlockingIOError):
            lock_file(second)
    with path.open("w") as third:
        lock_file(third)


def test_files_are_read_in_places_and_maps_released_where_windows_lacks_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers"
    with path.open("w+b", buffering=0) as file:
        file.write(b"0123456789")
        for _ in range(2):
            assert (read_at(file, 3, 2), read_at(file, 5, 8), read_at(file, 1, 20)) == (b"234", b"89", b"")
            monkeypatch.setattr(sys, "platform", "win32")
            monkeypatch.delattr(os, "pread", raising=False)
            monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
        file.write(b"ab")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            release_pages(mapped)
            assert mapped[:] == b"0123456789ab"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the peak of a process anew")
def test_the_peak_counts_what_is_touched_since_it_was_begun_anew() -> None:
    size = 200_000_000
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    high = peak_resident_bytes()
    assert high > size
    del block
    restart_peak_resident_bytes()
    low = peak_resident_bytes()
    assert low < high - size / 2
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_resident_bytes() > low + size / 2


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["export", "--help"]])
def test_the_help_needs_no_posix(arguments: list[str]) -> None:
    done = without_posix(f"from veneer.cli import main\nmain({arguments!r})")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_all_modules_import_without_posix_and_a_run_says_what_is_lacking(tmp_path: Path) -> None:
    """Left out: the program itself, what Triton is needed for, and the compiled kernels, which are no modules."""
    done = without_posix(
        "import importlib, pkgutil, veneer\n"
        "skipped = ('veneer.__main__', 'veneer.gpu', 'veneer.native.kernels')\n"
        "for found in pkgutil.walk_packages(veneer.__path__, 'veneer.'):\n"
        "    if not found.name.startswith(skipped):\n        importlib.import_module(found.name)\n"
        "from pathlib import Path\nfrom veneer.errors import OutputError\nfrom veneer.io.locks import exclusive\n"
        f"try:\n    with exclusive(Path({str(tmp_path)!r})):\n        print('held')\n"
        "except OutputError as error:\n    print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "no file locks (flock)" in done.stdout
    assert "WSL" in done.stdout
