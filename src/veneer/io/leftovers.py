"""Finds and deletes unfinished files of killed processes; a lock distinguishes them from files that are being written.

Next to an unfinished file or folder is a lock file, `.partial-PID.TOKEN-NAME.held`, whose lock its process holds. The
number of a process would not be enough: other machines use the same numbers, and the system reuses them. If the file
system has no locks, there is no lock file, and an unfinished file without one is never deleted, since it may be in use.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from veneer.errors import OutputError
from veneer.runtime.posix import lock_file, lock_patiently

PARTIAL = ".partial-"
"""Prefix of the names of unfinished files and folders."""
HELD = ".held"
"""The end of a lock file's name."""
TOKEN_BYTES = 6
"""Random bytes in the name of an unfinished file or folder."""
_BEFORE_NAME = rf"{re.escape(PARTIAL)}\d+(?:\.[0-9a-f]+)?-"


def partial_of(path: Path) -> Path:
    """A temporary name next to `path` that nobody else uses: neither another thread, nor a process with the same number
    on another machine or in another container."""
    return path.with_name(f"{PARTIAL}{os.getpid()}.{secrets.token_hex(TOKEN_BYTES)}-{path.name}")


def name_when_complete(path: Path) -> Path:
    """The name that a file will have when it and the folders above it are complete."""
    return Path(*(re.sub(f"^{_BEFORE_NAME}", "", part) for part in path.parts))


def claim_of(path: Path) -> Path:
    """A name next to `path` that only serves as a lock: its holder alone may create `path`."""
    return path.with_name(f"{PARTIAL}0-{path.name}")


@contextmanager
def held(partial: Path, meant: Path | None = None) -> Iterator[None]:
    """Hold the lock of an unfinished file or folder, which is made and ended within the block.

    Args:
        partial: its name.
        meant: the name in errors; by default `partial`.

    Raises:
        OSError: the lock file cannot be made.
        OutputError: another process, or this one already, is writing there.
    """
    lock = partial.with_name(partial.name + HELD)
    file: IO[Any] | None = None
    try:
        file = _locked(lock, meant or partial)
        yield
    finally:
        if file is None:  # there are no locks; or a signal came before the lock was taken, and nobody may have it
            with suppress(OSError):
                _remove_if_dead(lock)
        else:
            if not partial.is_dir():  # deleting one was interrupted, and is left to `remove_dead`
                lock.unlink(missing_ok=True)
            file.close()


def _locked(lock: Path, meant: Path) -> IO[Any] | None:
    """A lock file, open and locked; None if the file system has no locks. Errors name `meant`."""
    while True:
        with ExitStack() as closing:  # also at a signal, so that the lock is free again
            file = closing.enter_context(lock.open("ab"))
            try:
                lock_patiently(file)
            except BlockingIOError as error:
                raise OutputError(
                    f"{meant}: another process is writing there; wait for it or give another output folder"
                ) from error
            except (OSError, OutputError):
                lock.unlink(missing_ok=True)
                return None
            if is_at(file, lock):
                closing.pop_all()
                return file
            # It was deleted between the two: `remove_dead` took it for a dead process's.


def remove_dead(folder: Path, name: str = "") -> None:
    """Delete the unfinished files and folders in `folder` whose process is gone; those that may not be deleted stay.

    Args:
        folder: where they are.
        name: the final name of those to delete; empty for all.
    """
    named = re.compile(rf"{_BEFORE_NAME}{re.escape(name) or '.+'}{re.escape(HELD)}", re.DOTALL)
    for lock in sorted(folder.glob(f"{PARTIAL}*{HELD}")):
        if named.fullmatch(lock.name):
            # Another process may delete it at the same time, and another user's cannot be opened.
            with suppress(FileNotFoundError, PermissionError):
                _remove_if_dead(lock)


def _remove_if_dead(lock: Path) -> None:
    with lock.open("r+b") as file:
        try:
            lock_file(file)
        except (OSError, OutputError):  # it is being written, or this cannot be determined
            return
        if not is_at(file, lock):
            return
        partial = lock.with_name(lock.name.removesuffix(HELD))
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        if not partial.exists():
            lock.unlink(missing_ok=True)


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
