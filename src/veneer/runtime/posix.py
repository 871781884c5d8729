"""Functions that need a POSIX system (Linux, macOS). Elsewhere they say so: a run cannot be started on Windows.

The modules behind these functions do not exist on Windows. They are imported when they are needed, so that the help,
the version and `veneer doctor` work there too.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, NoReturn

from veneer.errors import OutputError

LOOKS, LOOK_SECONDS = 5, 0.02
"""How often, and how many seconds apart, a lock is tried again that somebody may only be looking at."""


def lock_file(file: IO[Any]) -> None:
    """Take the exclusive lock of an open file, until it is closed or the process ends.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the file system has no locks.
        OutputError: the operating system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        _refuse("file locks (flock)", error)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_patiently(file: IO[Any]) -> None:
    """Take the exclusive lock of an open file, as `lock_file`. A process that only checks the lock (`is_locked`) or
    clears it away holds it for a moment, which this waits for.

    Raises:
        BlockingIOError, OSError, OutputError: as there.
    """
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            lock_file(file)
            return
        time.sleep(LOOK_SECONDS)
    lock_file(file)


def is_locked(path: Path) -> bool:
    """Whether another process has the exclusive lock of a file (`lock_file`); False where there is no such file.

    The check itself takes a shared lock for a moment, which `veneer.io.locks.exclusive` waits for.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def peak_resident_bytes() -> int:
    """The peak of this process's resident memory since its start, or since `restart_peak_resident_bytes`, in bytes.

    Raises:
        OutputError: the operating system does not count it.
    """
    try:
        import resource
    except ImportError as error:
        _refuse("a count of a process's memory (getrusage)", error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kilobytes, macOS bytes.
    return peak * (1 if sys.platform == "darwin" else 1024)


def restart_peak_resident_bytes() -> None:
    """Let `peak_resident_bytes` count from now on, with what is resident now.

    Only Linux can do this (proc(5), `clear_refs`). On other systems the peak still counts from the start of the
    process.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def file_size_limit() -> int | None:
    """The largest size of a file of this process, in bytes (`ulimit -f`); None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


def read_at(file: FileIO, count: int, start: int) -> bytes:
    """`count` bytes of an open file from `start` on. The file's position is kept, and must be its end: Windows has no
    call that reads elsewhere without moving it."""
    if sys.platform != "win32":
        return os.pread(file.fileno(), count, start)
    file.seek(start)
    found = file.read(count)
    file.seek(0, os.SEEK_END)
    return found or b""


def release_pages(mapped: mmap.mmap) -> None:
    """Release the pages of a mapped file: the system reads them again from its own memory, or from the disk. Windows
    has no such call."""
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_DONTNEED)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own (`process_group=0`) and all processes that it has started, and wait
    for it.

    Windows has no such groups: there only the process itself is ended.
    """
    if sys.platform != "win32":
        # A process that has ended by itself may have left others running.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def close_in_forks(*files: IO[Any]) -> None:
    """Close files in every process that this one forks: the copy must not answer on connections of the original.
    Windows does not fork."""
    if sys.platform != "win32":
        for file in files:
            os.register_at_fork(after_in_child=file.close)


def _refuse(lacking: str, error: ImportError) -> NoReturn:
    raise OutputError(
        f"this system ({sys.platform}) has no {lacking}, which veneer's runs need. "
        "Use Linux or macOS; on Windows use the Windows Subsystem for Linux (WSL)."
    ) from error
