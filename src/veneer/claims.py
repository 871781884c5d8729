"""Refuses output folders that belong to the base model or hold another command's results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from veneer.errors import ModelError, OutputError
from veneer.io.files import reported
from veneer.io.places import look, place_named
from veneer.io.proofs import begins_with
from veneer.run_folder import EVENTS_FILE

GRID_FILE = "sweep.json"
SETTINGS_FILE = "settings.json"
MARKS = {
    "run": (EVENTS_FILE, '{"event": '),
    "sweep": (GRID_FILE, '{\n  "grid": '),
    "comparison": (SETTINGS_FILE, '{\n "model": '),
}
"""For each kind of result, the file that is written into its folder first, and the beginning of every such file."""


def refuse_the_models_folder(model: str, output: Path) -> None:
    """Refuse the base model's own folder: a result's files would be among the model's, or replace them.

    Raises:
        OutputError: the output folder is the model's, or this cannot be checked.
    """
    base = place_named(model, ModelError)
    look(output, OutputError)
    if base.exists() and output.exists() and output.samefile(base):
        raise OutputError(f"{output} is the folder of the base model, whose files would be replaced; give another one")


def refuse_strangers(folder: Path, names: Iterable[str], kind: str) -> None:
    """Refuse a folder that holds a result of another kind, or other files that would be replaced.

    Args:
        folder: the output folder.
        names: the files that would be replaced, in addition to the mark.
        kind: the kind of result to write, a key of `MARKS`.

    Raises:
        OutputError: the folder has no mark of this kind, and holds such a result or files.
    """
    mark, begins = MARKS[kind]
    with reported(folder / mark):
        if (folder / mark).is_file() and begins_with(folder / mark, begins):
            return
    refuse_other_kinds(folder, kind)
    with reported(folder):
        marked, there = (folder / mark).exists(), [name for name in names if (folder / name).exists()]
    if marked:
        raise OutputError(
            f"{folder} holds {mark}, which no {kind} has written as it is; put it back from a copy if it was damaged, "
            "or give another output folder"
        )
    refuse_replacing(folder, there, kind)


def refuse_other_kinds(folder: Path, kind: str) -> None:
    """Refuse a folder that holds a result of another kind, which would be lost when this one is deleted.

    Raises:
        OutputError: the folder holds such a result.
    """
    for other, (name, begins) in MARKS.items():
        file = folder / name
        with reported(file):
            holds = other != kind and file.is_file() and file.stat().st_size > 0 and begins_with(file, begins)
        if holds:
            raise OutputError(f"{folder} holds a {other} (see {name}); give another output folder")


def refuse_replacing(folder: Path, names: Sequence[str], kind: str) -> None:
    """Refuse a folder that has files of these names which this kind of result did not write.

    Raises:
        OutputError: there are such files.
    """
    if names:
        raise OutputError(
            f"{folder} holds {' and '.join(names)}, which no {kind} has written and a {kind} would replace; give "
            "another output folder, or move what is there"
        )
