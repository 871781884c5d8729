"""The files that hold the rows of a run: one, several by a pattern, or several sources with weights."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veneer.config import DataSection, SourceSection
from veneer.data.hub import HUB, hub_file
from veneer.errors import DataError, listing
from veneer.events import Subscriber, ignore

STREAMED_FROM = 100_000_000
"""Bytes of rows from which on their tokens are kept on the disk, if the configuration leaves that open."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """One file of rows."""

    path: Path
    key: str
    """What it is called in `run.lock`: its key in the configuration, and its name where a pattern found several."""
    weight: float = 1.0
    """How often an epoch holds each of its rows."""


def training_files(data: DataSection, emit: Subscriber = ignore) -> list[RowFile]:
    """The files of training rows, in order.

    Args:
        data: names them.
        emit: told how far a dataset of the hub is.

    Raises:
        DataError: a pattern fits no file, a dataset cannot be had, or a file has two weights.
    """
    if data.file is not None:
        return _files(SourceSection(file=data.file), "data.file", emit)
    found = [
        file
        for number, source in enumerate(data.sources)
        for file in _files(source, f"data.sources.{number}.file", emit)
    ]
    _refuse_two_weights(found)
    return found


def _refuse_two_weights(files: Sequence[RowFile]) -> None:
    """Refuse weighted files of which one is named twice: an epoch holds its rows by one weight.

    Raises:
        DataError: there is such a file.
    """
    if all(file.weight == 1.0 for file in files):
        return
    names = Counter(file.path.resolve() for file in files)
    twice = [str(path) for path, count in names.items() if count > 1]
    if twice:
        raise DataError(
            f"data.sources names a file more than once, beside weights:\n{listing(twice)}\n"
            "Name it once, with the weight that it is to have."
        )


def evaluation_files(data: DataSection, emit: Subscriber = ignore) -> list[RowFile]:
    """The files of evaluation rows, in order; none where no `eval_file` is given. Arguments as `training_files`.

    Raises:
        DataError: as `training_files`.
    """
    return [] if data.eval_file is None else _files(SourceSection(file=data.eval_file), "data.eval_file", emit)


def _files(source: SourceSection, key: str, emit: Subscriber) -> list[RowFile]:
    found = files_named(source.file, emit)
    if len(found) == 1:
        return [RowFile(found[0], key, source.weight)]
    return [RowFile(path, f"{key} {path.name}", source.weight) for path in found]


def files_named(name: str, emit: Subscriber = ignore) -> list[Path]:
    """The files that a name means: itself; those that fit a pattern, by name; or the one with a dataset's rows.

    Args:
        name: a file, a pattern with `*`, `?`, `[…]` or `**`, or `hub:owner/name[split]`.
        emit: told how far a dataset of the hub is.

    Raises:
        DataError: a pattern fits no file, or a dataset cannot be had.
    """
    if name.startswith(HUB):
        return [hub_file(name, emit)]
    path = Path(name).expanduser()
    if path.exists() or not glob.has_magic(name):
        return [path]
    found = sorted(file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file())
    if not found:
        raise DataError(f"{name}: no file fits this pattern; check it, or give one file's name")
    return found
