"""Whose a folder is that results are to be written into: it is the base model's, or holds what another command made."""

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
"""For each kind of result, the file that is written into its folder before all others, and what every such file begins
with."""


def refuse_the_models_folder(model: str, output: Path) -> None:
    """Refuse the base model's own folder: a result's files would stand among the model's, or take their place.

    Raises:
        OutputError: it is, or cannot be looked for.
    """
    base = place_named(model, ModelError)
    look(output, OutputError)
    if base.exists() and output.exists() and output.samefile(base):
        raise OutputError(f"{output} is the folder of the base model, whose files would be replaced; give another one")


def refuse_strangers(folder: Path, names: Iterable[str], kind: str) -> None:
    """Refuse a folder that holds a result of another kind, or files of somebody else's that would be replaced there.

    Args:
        folder: that is written into.
        names: the files that would be replaced, beside the mark.
        kind: of result that is written, a key of `MARKS`.

    Raises:
        OutputError: the folder has no mark of this kind, and does hold such a result or files.
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
    """Refuse a folder that holds a result of another kind, which whoever deletes this one would delete too. Raises
    OutputError where it does."""
    for other, (name, begins) in MARKS.items():
        file = folder / name
        with reported(file):
            holds = other != kind and file.is_file() and file.stat().st_size > 0 and begins_with(file, begins)
        if holds:
            raise OutputError(f"{folder} holds a {other} (see {name}); give another output folder")


def refuse_replacing(folder: Path, names: Sequence[str], kind: str) -> None:
    """Refuse a folder whose files of these names somebody else has written. Raises OutputError where there are any."""
    if names:
        raise OutputError(
            f"{folder} holds {' and '.join(names)}, which no {kind} has written and a {kind} would replace; give "
            "another output folder, or move what is there"
        )
