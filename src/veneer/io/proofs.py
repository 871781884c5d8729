"""Proofs, before anything expensive starts, that a result can be written, and that it replaces nobody else's files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from veneer.errors import OutputError
from veneer.io.files import folder_place, reported, try_writing
from veneer.io.leftovers import HELD, partial_of
from veneer.io.places import look


def prove_folder(path: Path) -> None:
    """Prove that `atomic_folder` can make `path`, before anything expensive starts. Nothing is made.

    Raises:
        OutputError: its name is too long, it would lie on a read-only file system or below a file, or may not be
            written.
    """
    with reported(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        try_writing(partial_of(there / f"{path.name}{HELD}"))


def prove_new_folder(path: Path) -> Path:
    """Prove that `atomic_folder` can make what a user calls `path`, and return where. An empty folder may be there.
    Nothing is made.

    Raises:
        OutputError: something is there, or a folder cannot be made there.
    """
    look(path, OutputError)
    place = folder_place(path)
    with reported(path):
        if place.exists() and not (place.is_dir() and next(place.iterdir(), None) is None):
            raise OutputError(f"{path} is there already and not empty; give another output folder")
    prove_folder(place)
    return place


def prove_file(path: Path) -> None:
    """Prove that a file can be written at `path`, before anything expensive starts.

    Raises:
        OutputError: it is a folder, its folder is not there, or that may not be written.
    """
    with reported(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try_writing(partial_of(path))


def prove_own_file(path: Path, begins: str, what: str) -> None:
    """`prove_file` for a result whose name may be mistyped: what is there is replaced only where it is an earlier one,
    or empty. It may be the user's rows.

    Args:
        path: the file.
        begins: what all files of the kind begin with.
        what: names the kind.

    Raises:
        OutputError: as there, or something else is at `path`.
    """
    prove_file(path)
    with reported(path):
        if not path.exists() or (path.is_file() and begins_with(path, begins)):
            return
    raise OutputError(
        f"{path} is there already and is not {what}, the only thing that is replaced here; give a name that is free"
    )


def begins_with(path: Path, start: str) -> bool:
    """Whether a file begins with a text, or is empty."""
    with path.open("rb") as file:
        return file.read(len(start.encode())) in (start.encode(), b"")
