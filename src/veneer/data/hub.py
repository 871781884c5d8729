"""Datasets of the hub by name: their rows are written once, as JSON Lines, and read like any other file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.errors import DataError, OutputError
from veneer.events import Stage, Subscriber, ignore
from veneer.io.files import atomic_file, make_output_folder
from veneer.io.leftovers import held, remove_dead
from veneer.strict_json import to_text

HUB = "hub:"
_NAME = re.compile(
    r"hub:(?P<path>[^\[\]@:]+)(?::(?P<config>[^\[\]@]+))?(?:@(?P<revision>[^\[\]]+))?\[(?P<split>[^\[\]]+(?:\[[^\[\]]*\])?)\]"
)


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
    """The parts of a dataset's name.

    Raises:
        DataError: it is none.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise DataError(
            f"{name!r} names no dataset; write hub:owner/name[split], with a configuration or a revision where they "
            "are wanted: hub:owner/name:config@revision[split]"
        )
    return HubName(found["path"], found["split"], found["config"], found["revision"])


def kept_datasets() -> Path:
    """The folder of the datasets that were written."""
    return Path("~/.cache/veneer/datasets").expanduser()


def hub_file(name: str, emit: Subscriber = ignore) -> Path:
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
    told_apart = name + _state(Path(asked.path)) if asked.is_folder else name
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
        for line in _lines(name, rows):
            out.write(line)
            stage.advance()
    return file


def _state(folder: Path) -> str:
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
    return to_text([str(folder.resolve()), *found])


def _load(name: str, asked: HubName) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: datasets of the hub need a library; pip install 'veneer[hub]'") from error
    try:
        return datasets.load_dataset(asked.path, asked.config, split=asked.split, revision=asked.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: cannot be had: {error}\nLook at the name, the split and the connection (a private dataset wants "
            "`hf auth login`); or give the rows as a file, which needs no network"
        ) from error


def _lines(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        try:
            yield to_text(dict(row), ensure_ascii=False, default=str) + "\n"
        except (TypeError, ValueError, OutputError) as error:
            raise DataError(f"{name}: row {number} cannot be written as JSON: {error}") from error
