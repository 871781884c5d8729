"""The lock of a folder, which one process at a time holds and which ends with the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from veneer.errors import OutputError
from veneer.io.files import reported
from veneer.io.leftovers import is_at
from veneer.runtime.posix import lock_patiently

LOCK = ".lock"
"""The file in a folder that its lock is taken on."""


@contextmanager
def exclusive(folder: Path, mark: str = "", refuse: Callable[[], None] | None = None) -> Iterator[str]:
    """Hold `folder` for this process alone.

    Args:
        folder: the folder.
        mark: a text that is in the folder's lock meanwhile.
        refuse: a function that runs after the folder is locked and before the mark is written; if it raises, the mark
            of a killed process stays.

    Yields:
        The mark of an earlier holder that was killed; otherwise an empty string.

    Raises:
        OutputError: another process holds the folder or has just deleted it, or the system has no locks.
    """
    with reported(folder):
        # Unbuffered: what a full disk refused must not be tried again, and fail again, when the file is closed.
        lock = (folder / LOCK).open("a+b", buffering=0)
    with lock:
        try:
            lock_patiently(lock)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder}: another run is writing there; wait for it or give another output folder"
            ) from error
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be locked: {error.strerror}; give an output folder on a file system with locks"
            ) from error
        if not is_at(lock, folder / LOCK):
            raise OutputError(
                f"{folder}: another run that ended just now has taken its folder away; start this one again"
            )
        if refuse is not None:
            refuse()
        try:
            with reported(folder / LOCK):
                left = _replace_mark(lock, mark.encode())
            yield left
        finally:
            with suppress(OSError):
                lock.truncate(0)


def _replace_mark(lock: FileIO, mark: bytes) -> str:
    """Write a mark into the file of a held lock, and return the earlier content."""
    lock.seek(0)
    left = lock.read().decode("utf-8", errors="replace")
    lock.truncate(0)
    if lock.write(mark) != len(mark):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), lock.name)
    return left
