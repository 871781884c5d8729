"""Digests of files. Files that are read more than once are hashed only once, and their digests are remembered.

A file is recognised by its path, inode, size and both times. The second time, ctime, changes with every change of the
content and cannot be set back. Digests of large files are also kept on the disk, so that the next process need not read
them. SHA-256 reads 0.2 to 1.5 GB per second, on one core and without Python's lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock, Thread

from veneer.errors import OutputError
from veneer.io.files import write_text
from veneer.text.strict_json import to_text

KEPT_FROM = 50_000_000
"""The size, in bytes, from which on a file's digest is kept on the disk; smaller files are hashed in a moment."""
KEPT = 1_000
"""The number of digests that are kept on the disk."""

HURRY = 3.0
"""Seconds for which digests are still waited for by somebody who is in a hurry."""

SAMPLE_BYTES = 1_000_000
"""Bytes of a beginning and of an end that `sampled_digest` reads."""

Key = tuple[int, int, int, int]
_ONE_AT_A_TIME = Lock()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(paths: Iterable[Path]) -> str:
    """A hash of the files' names, sizes, and first and last MB. It distinguishes models without reading whole files."""
    state = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            state.update(f"{path.name}\0{size}\0".encode())
            for start in (0, max(SAMPLE_BYTES, size - SAMPLE_BYTES)):
                file.seek(start)
                state.update(file.read(SAMPLE_BYTES))
    return state.hexdigest()


def kept_file() -> Path:
    """The file of the digests that are kept on the disk."""
    return Path("~/.cache/veneer/digests.json").expanduser()


def file_digest(file: Path) -> str:
    """The hexadecimal SHA-256 of a file. If several callers ask at a time, the first one reads it and the others wait.

    Raises:
        OSError: it cannot be read.
    """
    key = file_key(file)
    with _ONE_AT_A_TIME:
        return _remembered(file.resolve(), key)


def file_key(file: Path) -> Key:
    """A file's inode, size and two times, according to the system. While they stay the same, so does the content.

    Raises:
        OSError: there is no such file.
    """
    status = file.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _remembered(file: Path, key: Key) -> str:
    if key[1] < KEPT_FROM:
        return sha256(file)
    entry = "/".join(map(str, (file, *key)))
    kept = _read_kept()
    if entry in kept:
        return kept[entry]
    digest = sha256(file)
    _keep(entry, digest)
    return digest


def _read_kept() -> dict[str, str]:
    """The digests on the disk; empty if their file is damaged or no home folder is known."""
    try:
        kept = json.loads(kept_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home, or the JSON is too deep
        return {}
    if not isinstance(kept, dict):
        return {}
    return {str(name): digest for name, digest in kept.items() if isinstance(digest, str) and len(digest) == 64}


def _keep(entry: str, digest: str) -> None:
    kept = {**_read_kept(), entry: digest}
    newest = dict(list(kept.items())[-KEPT:])
    try:
        kept_file().parent.mkdir(parents=True, exist_ok=True)
        write_text(kept_file(), to_text(newest, indent=0) + "\n")
    except (OSError, OutputError, RuntimeError):
        return  # An unknown or unwritable home only costs the next process the time.


class BackgroundDigests:
    """Digests of files, computed in a thread during other work.

    Args:
        files: the files, by the names that their digests get.
    """

    def __init__(self, files: Mapping[str, Path]):
        self._found: dict[str, str] = {}
        self._problem: Exception | None = None
        # Not waited for when the process ends.
        self._thread = Thread(target=self._read, args=(dict(files),), daemon=True)
        self._thread.start()

    def _read(self, files: dict[str, Path]) -> None:
        try:
            self._found.update({name: file_digest(file) for name, file in files.items()})
        except Exception as error:
            self._problem = error  # raised when the digests are requested

    def in_time(self, hurried: Callable[[], bool]) -> bool:
        """Wait for the last digest, and return whether it is ready.

        Args:
            hurried: a function that is called repeatedly; once it returns true, `HURRY` seconds are left.
        """
        end = None
        while self._thread.is_alive():
            if end is None and hurried():
                end = time.monotonic() + HURRY
            if end is not None and time.monotonic() > end:
                return False
            self._thread.join(0.02)
        return True

    def result(self) -> dict[str, str]:
        """The digest of each file, by name; waits for the last of them.

        Raises:
            OSError: a file cannot be read.
        """
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        return dict(self._found)
