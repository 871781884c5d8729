"""What only POSIX systems (Linux, macOS) offer, and what is said elsewhere: on Windows no run can be started.

The modules behind these functions do not exist on Windows. They are imported when they are needed, so that the help,
the version and `veneer doctor` work there too.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, NoReturn

from veneer.errors import OutputError


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


def is_locked(path: Path) -> bool:
    """Whether another process has the exclusive lock of a file (`lock_file`); False where there is no such file.

    The look itself takes a shared lock for an instant, which `veneer.io.locks.exclusive` waits for.
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
    """The most memory that this process has had resident since its start, or `restart_peak_resident_bytes`, in bytes.

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

    Only Linux can (proc(5), `clear_refs`). On other systems the peak stays that of the process since its start.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def file_size_limit() -> int | None:
    """Bytes that a file of this process may have at most (`ulimit -f`); None for no limit, or where there are none."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


def read_at(file: FileIO, count: int, start: int) -> bytes:
    """`count` bytes of an open file from `start` on. Where it writes next stays, which must be its end: Windows has no
    call that reads elsewhere."""
    if sys.platform != "win32":
        return os.pread(file.fileno(), count, start)
    file.seek(start)
    found = file.read(count)
    file.seek(0, os.SEEK_END)
    return found or b""


def release_pages(mapped: mmap.mmap) -> None:
    """Give the pages of a mapped file back: the system reads them again from its own memory, or from the disk. Windows
    cannot be told to."""
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_DONTNEED)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own (`process_group=0`) and all that it has started, and wait for it.

    Windows has no such groups: there the process alone is ended.
    """
    if sys.platform != "win32":
        # One that has ended by itself may have left others behind.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def close_in_forks(*files: IO[Any]) -> None:
    """Close files in every process that this one forks: such a process is a copy, and none of those whom others speak
    with. Windows does not fork."""
    if sys.platform != "win32":
        for file in files:
            os.register_at_fork(after_in_child=file.close)


def _refuse(lacking: str, error: ImportError) -> NoReturn:
    raise OutputError(
        f"this system ({sys.platform}) has no {lacking}, which veneer's runs need. "
        "Use Linux or macOS; on Windows use the Windows Subsystem for Linux (WSL)."
    ) from error
