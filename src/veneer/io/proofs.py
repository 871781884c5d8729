"""Proves, before anything expensive starts, that a result can be written and replaces no foreign files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from veneer.errors import OutputError
from veneer.io.files import folder_place, refuse_filled, reported, try_writing
from veneer.io.leftovers import HELD, partial_of
from veneer.io.places import look

ANOTHER_FILE = "give the name of another file"
"""The remedy of a file that cannot be written."""


def prove_folder(path: Path) -> None:
    """Prove that `atomic_folder` can make `path`, before anything expensive starts. Nothing is made.

    Raises:
        OutputError: its name is too long, it would be on a read-only file system or below a file, or may not be
            written.
    """
    with reported(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        try_writing(partial_of(there / f"{path.name}{HELD}"))


def prove_new_folder(path: Path) -> Path:
    """Prove that `atomic_folder` can make the user's `path`, and return its place. An empty folder may be there.
    Nothing is made.

    Raises:
        OutputError: something is there, or a folder cannot be made there.
    """
    look(path, OutputError)
    place = folder_place(path)
    refuse_filled(path)
    prove_folder(place)
    return place


def prove_file(path: Path) -> None:
    """Prove that a file can be written at `path`, before anything expensive starts.

    Raises:
        OutputError: it is a folder, its folder is not there, or that may not be written.
    """
    with reported(path, instead=ANOTHER_FILE):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try_writing(partial_of(path))


def prove_own_file(path: Path, begins: str, what: str) -> None:
    """`prove_file` for a result whose name may be mistyped: an existing file, which could be the user's rows, is
    replaced only if it is an earlier result or empty.

    Args:
        path: the file.
        begins: the beginning of all files of the kind.
        what: the name of the kind.

    Raises:
        OutputError: see `prove_file`, or something else is at `path`.
    """
    prove_file(path)
    with reported(path, instead=ANOTHER_FILE):
        if not path.exists() or (path.is_file() and begins_with(path, begins)):
            return
    raise OutputError(
        f"{path} already exists and is not {what}, the only kind of file that is replaced here; give another name"
    )


def begins_with(path: Path, start: str) -> bool:
    """Whether a file begins with a text, or is empty."""
    with path.open("rb") as file:
        return file.read(len(start.encode())) in (start.encode(), b"")
