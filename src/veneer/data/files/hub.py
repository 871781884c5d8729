"""Datasets of the hub by name: their rows are written once, as JSON Lines, and then read like any other file."""

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

HUB_PREFIX = "hub:"
FORMAT_VERSION = 2
"""The version of the way in which rows are written; files of other versions are not read."""
_NAME = re.compile(r"hub:(?P<place>[^\[\]]+)\[(?P<split>[^\[\]]+(?:\[[^\[\]]*\])?)\]")
_MORE = re.compile(r"(?::(?P<config>[^@]+))?(?:@(?P<revision>.+))?", re.DOTALL)
_SAVED = "state.json"
"""The file that identifies a folder into which `save_to_disk` wrote one split. If it wrote several, each into a folder
below, `datasets` can read the files."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A dataset in the form `hub:owner/name:config@revision[split]`; config and revision are optional."""

    path: str
    """`owner/name`, or a folder with a dataset's files."""
    split: str
    """A split, or a part of one in the notation of `datasets`: `train[:10%]`."""
    config: str | None
    revision: str | None

    @property
    def is_folder(self) -> bool:
        """Whether the dataset's files are in a folder on disk, which has precedence over a dataset of the hub."""
        return Path(self.path).is_dir()


def read_name(name: str) -> HubName:
    """The parts of a dataset's name. The longest part that is a folder names that folder, whatever signs it contains.

    Raises:
        DataError: it is not a dataset's name, or names a revision of a folder.
    """
    found = _NAME.fullmatch(name)
    place = "" if found is None else found["place"]
    end = _end_of_path(place)
    more = _MORE.fullmatch(place[end:])
    if found is None or not end or more is None:
        raise DataError(
            f"{name!r} does not name a dataset; write hub:owner/name[split], with a configuration or a revision if "
            "needed: hub:owner/name:config@revision[split]"
        )
    asked = HubName(place[:end], found["split"], more["config"], more["revision"])
    if asked.is_folder and asked.revision is not None:
        raise DataError(
            f"{name}: {asked.path} is a folder, whose files have no revisions; leave @{asked.revision} out, or name "
            "another folder"
        )
    return asked


def _end_of_path(place: str) -> int:
    """The end of a dataset's path, which may be followed by a configuration and a revision: the end of the longest
    folder, or the first of their signs."""
    ends = [*(at for at, sign in enumerate(place) if sign in ":@"), len(place)]
    return max((end for end in ends if end and Path(place[:end]).is_dir()), default=ends[0])


def kept_datasets() -> Path:
    """The folder for the datasets that were written.

    Raises:
        OutputError: the home folder is not known.
    """
    return place_named("~/.cache/veneer/datasets", OutputError)


def hub_file(name: str, emit: Subscriber) -> Path:
    """The file with the rows of a dataset, which is written the first time. For a dataset in a folder it is written
    again after its files were changed.

    Args:
        name: `hub:owner/name[split]`.
        emit: receives the progress.

    Raises:
        DataError: `datasets` is not installed, or cannot load the dataset.
        OutputError: the rows cannot be written.
    """
    asked = read_name(name)
    folder = kept_datasets()
    readable = re.sub(r"[^\w.-]+", "-", f"{asked.path}-{asked.split}").strip("-")[-80:]
    told_apart = to_text([FORMAT_VERSION, name, _state(Path(asked.path)) if asked.is_folder else []])
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
    """The identity of a folder: its path, and the name, size and time of each of its files. Projects may have folders
    of the same relative name, and the files of a folder may change, while a dataset of the hub has a revision.

    Raises:
        DataError: a file cannot be read.
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
        raise DataError(f"{name}: datasets of the hub need the library datasets; pip install 'veneer[hub]'") from error
    if (Path(asked.path) / _SAVED).is_file():
        raise DataError(
            f"{name}: {asked.path} was written by save_to_disk of datasets, which has its own format; write the rows "
            f'as Parquet, by datasets.load_from_disk("{asked.path}").to_parquet("rows.parquet"), and name that file'
        )
    try:
        return datasets.load_dataset(asked.path, asked.config, split=asked.split, revision=asked.revision)
    except Exception as error:  # its HTTP client and its readers of files raise errors without a common base class
        raise DataError(
            f"{name}: cannot be loaded: {error}\nCheck the name, the split and the connection (a private dataset needs "
            "`hf auth login`); or give the rows as a file, which needs no network"
        ) from error


def _each(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from map(dict, rows)
    # A date beyond Python's range, an unknown time zone, or another value that the library cannot make an object of.
    except (ValueError, OverflowError, KeyError, ImportError) as error:
        raise DataError(f"{name}: a row cannot be read: {error}") from error
