"""The files with the rows of a run: one, several by a pattern, or several sources with weights."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from veneer.config import DataSection, SourceSection
from veneer.data.files.hub import HUB_PREFIX, hub_file
from veneer.errors import DataError, listing
from veneer.events import Subscriber, ignore
from veneer.io.places import look, place_named

STREAMED_BYTES = 100_000_000
"""The bytes of rows from which on their tokens are kept on disk, if the configuration leaves it open."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """One file of rows."""

    path: Path
    key: str
    """The name in `run.lock`: the file's key in the configuration; if a pattern found it, followed by its path after
    the fixed part of the pattern."""
    weight: float = 1.0
    """How often an epoch has each of its rows."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run, as they were found when its rows were read. Later code uses these: a new file that matches a
    pattern may have come meanwhile."""

    train: tuple[RowFile, ...]
    eval: tuple[RowFile, ...]
    """The evaluation files; empty if no `eval_file` is given."""

    @property
    def by_key(self) -> dict[str, Path]:
        """All files, by their names in `run.lock`."""
        return {file.key: file.path for file in (*self.train, *self.eval)}

    def lost(self, recorded: Collection[str]) -> list[str]:
        """The keys in a `run.lock` of files of rows that are not among these files."""
        then = keys_then(self.by_key, recorded).values()
        return sorted(key for key in recorded if key.startswith("data.") and key not in then)

    def only(self, recorded: Collection[str]) -> RunFiles:
        """The files that a `run.lock` has, by their keys there."""
        then = keys_then(self.by_key, recorded)
        train, evaluated = ([file for file in side if then[file.key] in recorded] for side in (self.train, self.eval))
        return RunFiles(tuple(train), tuple(evaluated))


def run_files(data: DataSection, emit: Subscriber = ignore) -> RunFiles:
    """The files of training and of evaluation rows; see `training_files` for arguments and errors."""
    return RunFiles(tuple(training_files(data, emit)), tuple(evaluation_files(data, emit)))


def keys_then(keys: Collection[str], recorded: Collection[str]) -> Mapping[str, str]:
    """Maps the present keys of files to their keys in a `run.lock`.

    Before keys contained folders, a file that was the only match of a pattern had its key in the configuration, and one
    of several matches had that key followed by its name.
    """
    places = Counter(key.partition(" ")[0] for key in keys)

    def then(key: str) -> str:
        place, _, name = key.partition(" ")
        older = [f"{place} {PurePosixPath(name).name}"] if name else []
        older += [place] if places[place] == 1 else []
        return next((one for one in (key, *older) if one in recorded and (one == key or one not in keys)), key)

    return {key: then(key) for key in keys}


def training_files(data: DataSection, emit: Subscriber = ignore) -> list[RowFile]:
    """The files of training rows, in order.

    Args:
        data: the section that names the files.
        emit: receives the progress of a dataset of the hub.

    Raises:
        DataError: a pattern matches no file, a dataset cannot be loaded, or a file has two weights.
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
    """Refuse weighted files of which one is named twice: its rows can have only one weight.

    Raises:
        DataError: there is such a file.
    """
    if all(file.weight == 1.0 for file in files):
        return
    names = Counter(file.path.resolve() for file in files)
    twice = [str(path) for path, count in names.items() if count > 1]
    if twice:
        raise DataError(
            f"data.sources names a file more than once while using weights:\n{listing(twice)}\n"
            "Name each file once, with its weight."
        )


def evaluation_files(data: DataSection, emit: Subscriber) -> list[RowFile]:
    """The files of evaluation rows, in order; none if no `eval_file` is given. Arguments as for `training_files`.

    Raises:
        DataError: see `training_files`.
    """
    return [] if data.eval_file is None else _files(SourceSection(file=data.eval_file), "data.eval_file", emit)


def _files(source: SourceSection, key: str, emit: Subscriber) -> list[RowFile]:
    found = files_named(source.file, emit)
    if not _is_pattern(source.file):
        return [RowFile(path, key, source.weight) for path in found]
    # Several folders may have files of the same name.
    fixed = _fixed_part(source.file)
    return [RowFile(path, f"{key} {path.relative_to(fixed).as_posix()}", source.weight) for path in found]


def _is_pattern(name: str) -> bool:
    """Whether a name is a pattern; the name of an existing file is not."""
    return not name.startswith(HUB_PREFIX) and glob.has_magic(name) and not place_named(name, DataError).exists()


def _fixed_part(pattern: str) -> Path:
    """The folder that contains all files of a pattern, as far as the pattern determines it."""
    path = place_named(pattern, DataError)
    return next(folder for folder in reversed((path, *path.parents)) if glob.has_magic(str(folder))).parent


def files_named(name: str, emit: Subscriber = ignore) -> list[Path]:
    """The files that a name means: the file itself; the matches of a pattern, by name; or the file of a dataset.

    Args:
        name: a file, a pattern with `*`, `?`, `[…]` or `**`, or `hub:owner/name[split]`.
        emit: receives the progress of a dataset of the hub.

    Raises:
        DataError: a pattern matches no file, or a dataset cannot be loaded.
    """
    if name.startswith(HUB_PREFIX):
        return [hub_file(name, emit)]
    path = place_named(name, DataError)
    if not _is_pattern(name):
        return [path]
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    for file in found:
        look(file, DataError)
    found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"{name}: no file matches this pattern; check it, or give the name of one file")
    return found
