"""Datasets of the hub by name: their rows are written once, as JSON Lines, and read like any other file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.data.files.arrow_rows import nulls_noted, without_nulls
from veneer.data.files.plain_json import as_json
from veneer.errors import DataError, OutputError
from veneer.events import Note, Stage, Subscriber
from veneer.io.files import atomic_file, make_output_folder
from veneer.io.leftovers import held, remove_dead
from veneer.io.places import place_named
from veneer.text.strict_json import to_text

HUB = "hub:"
WRITTEN = 2
"""The way in which rows are written; a file that was written in another one is not read."""
_NAME = re.compile(r"hub:(?P<place>[^\[\]]+)\[(?P<split>[^\[\]]+(?:\[[^\[\]]*\])?)\]")
_MORE = re.compile(r"(?::(?P<config>[^@]+))?(?:@(?P<revision>.+))?", re.DOTALL)
_SAVED = "state.json"
"""The file that tells a folder into which `save_to_disk` wrote one split. Where it wrote several, each into a folder
below, `datasets` reads the files."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A dataset as `hub:owner/name:config@revision[split]` names it; config and revision may be left out."""

    path: str
    """`owner/name`, or a folder with a dataset's files."""
    split: str
    """A split, or a part of one as `datasets` writes it: `train[:10%]`."""
    config: str | None
    revision: str | None

    @property
    def is_folder(self) -> bool:
        """Whether the dataset's files are in a folder on the disk, which goes before a dataset of the hub."""
        return Path(self.path).is_dir()


def read_name(name: str) -> HubName:
    """The parts of a dataset's name. As much of it as is a folder names that one, whatever signs are in it.

    Raises:
        DataError: it is none, or names a revision of a folder.
    """
    found = _NAME.fullmatch(name)
    place = "" if found is None else found["place"]
    end = _end_of_path(place)
    more = _MORE.fullmatch(place[end:])
    if found is None or not end or more is None:
        raise DataError(
            f"{name!r} names no dataset; write hub:owner/name[split], with a configuration or a revision where they "
            "are wanted: hub:owner/name:config@revision[split]"
        )
    asked = HubName(place[:end], found["split"], more["config"], more["revision"])
    if asked.is_folder and asked.revision is not None:
        raise DataError(
            f"{name}: {asked.path} is a folder, whose files have no revisions; leave @{asked.revision} out, or name "
            "the folder that is meant"
        )
    return asked


def _end_of_path(place: str) -> int:
    """Where the path of a dataset ends, before a configuration and a revision: behind the longest folder, or before the
    first of their signs."""
    ends = [*(at for at, sign in enumerate(place) if sign in ":@"), len(place)]
    return max((end for end in ends if end and Path(place[:end]).is_dir()), default=ends[0])


def kept_datasets() -> Path:
    """The folder of the datasets that were written. Raises OutputError where no home is known."""
    return place_named("~/.cache/veneer/datasets", OutputError)


def hub_file(name: str, emit: Subscriber) -> Path:
    """The file with the rows of a dataset, which is written the first time; of a folder's dataset, again after its
    files were changed.

    Args:
        name: `hub:owner/name[split]`.
        emit: told how far it is.

    Raises:
        DataError: `datasets` is not installed, or does not give such a dataset.
        OutputError: the rows cannot be written.
    """
    asked = read_name(name)
    folder = kept_datasets()
    readable = re.sub(r"[^\w.-]+", "-", f"{asked.path}-{asked.split}").strip("-")[-80:]
    told_apart = to_text([WRITTEN, name, _state(Path(asked.path)) if asked.is_folder else []])
    file = folder / f"{readable}-{hashlib.sha256(told_apart.encode()).hexdigest()[:16]}.jsonl"
    if file.is_file():
        return file
    rows = _load(name, asked)
    make_output_folder(folder)
    remove_dead(folder)
    with (
        Stage(emit, f"reading {name}", total=len(rows), unit="rows") as stage,
        atomic_file(file) as partial,
        held(partial),
        partial.open("w", encoding="utf-8") as out,
    ):
        nulls = 0
        for row in _each(name, rows):
            left, removed = without_nulls(row)
            nulls += removed
            out.write(to_text(as_json(left), ensure_ascii=False) + "\n")
            stage.advance()
    for note in nulls_noted(name, nulls):
        emit(Note(message=note))
    return file


def _state(folder: Path) -> list[Any]:
    """What a folder is: its place, and the name, size and time of each of its files. Projects have folders of one
    relative name, and the files of a folder change, where a dataset of the hub has its revision.

    Raises:
        DataError: a file cannot be looked at.
    """
    try:
        files = sorted(file for file in folder.resolve().rglob("*") if file.is_file())
        found = [(str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    return [str(folder.resolve()), *found]


def _load(name: str, asked: HubName) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: datasets of the hub need a library; pip install 'veneer[hub]'") from error
    if (Path(asked.path) / _SAVED).is_file():
        raise DataError(
            f"{name}: {asked.path} was written by save_to_disk of datasets, whose form is its own; write the rows as "
            f'Parquet, by datasets.load_from_disk("{asked.path}").to_parquet("rows.parquet"), and name that file'
        )
    try:
        return datasets.load_dataset(asked.path, asked.config, split=asked.split, revision=asked.revision)
    except Exception as error:  # those of its HTTP client and of readers of files have no base in common
        raise DataError(
            f"{name}: cannot be had: {error}\nLook at the name, the split and the connection (a private dataset wants "
            "`hf auth login`); or give the rows as a file, which needs no network"
        ) from error


def _each(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from map(dict, rows)
    # A date beyond Python's, a time zone that nobody knows, and whatever else a library cannot make an object of.
    except (ValueError, OverflowError, KeyError, ImportError) as error:
        raise DataError(f"{name}: a row cannot be read: {error}") from error
