"""The files that hold the rows of a run: one, several by a pattern, or several sources with weights."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from veneer.config import DataSection, SourceSection
from veneer.data.files.hub import HUB, hub_file
from veneer.errors import DataError, listing
from veneer.events import Subscriber, ignore
from veneer.io.places import look, place_named

STREAMED_FROM = 100_000_000
"""Bytes of rows from which on their tokens are kept on the disk, if the configuration leaves that open."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """One file of rows."""

    path: Path
    key: str
    """What it is called in `run.lock`: its key in the configuration, and where a pattern found it, its path behind the
    part of the pattern that is no pattern."""
    weight: float = 1.0
    """How often an epoch holds each of its rows."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run, as they were found when its rows were read. Whoever asks later asks these: a file that fits
    a pattern may have come meanwhile."""

    train: tuple[RowFile, ...]
    eval: tuple[RowFile, ...]
    """Empty where no `eval_file` is given."""

    @property
    def by_key(self) -> dict[str, Path]:
        """All of them, by what they are called in `run.lock`."""
        return {file.key: file.path for file in (*self.train, *self.eval)}

    def lost(self, recorded: Collection[str]) -> list[str]:
        """The keys in a `run.lock` of files of rows that are not among these."""
        then = keys_then(self.by_key, recorded).values()
        return sorted(key for key in recorded if key.startswith("data.") and key not in then)

    def only(self, recorded: Collection[str]) -> RunFiles:
        """Those that a `run.lock` has, by their keys there."""
        then = keys_then(self.by_key, recorded)
        train, evaluated = ([file for file in side if then[file.key] in recorded] for side in (self.train, self.eval))
        return RunFiles(tuple(train), tuple(evaluated))


def run_files(data: DataSection, emit: Subscriber = ignore) -> RunFiles:
    """The files of training and of evaluation rows. Arguments and errors as `training_files`."""
    return RunFiles(tuple(training_files(data, emit)), tuple(evaluation_files(data, emit)))


def keys_then(keys: Collection[str], recorded: Collection[str]) -> Mapping[str, str]:
    """What a `run.lock` calls files, by what they are called now.

    Before there were folders in their keys, a file that a pattern found alone had its key in the configuration, and
    one of several its name behind that.
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


def evaluation_files(data: DataSection, emit: Subscriber) -> list[RowFile]:
    """The files of evaluation rows, in order; none where no `eval_file` is given. Arguments as `training_files`.

    Raises:
        DataError: as `training_files`.
    """
    return [] if data.eval_file is None else _files(SourceSection(file=data.eval_file), "data.eval_file", emit)


def _files(source: SourceSection, key: str, emit: Subscriber) -> list[RowFile]:
    found = files_named(source.file, emit)
    if not _is_pattern(source.file):
        return [RowFile(path, key, source.weight) for path in found]
    # Files of one name may stand in several folders.
    fixed = _fixed_part(source.file)
    return [RowFile(path, f"{key} {path.relative_to(fixed).as_posix()}", source.weight) for path in found]


def _is_pattern(name: str) -> bool:
    """Whether a name means the files that fit it; a file's own name goes before."""
    return not name.startswith(HUB) and glob.has_magic(name) and not place_named(name, DataError).exists()


def _fixed_part(pattern: str) -> Path:
    """The folder that all files of a pattern are in, as far as the pattern says it."""
    path = place_named(pattern, DataError)
    return next(folder for folder in reversed((path, *path.parents)) if glob.has_magic(str(folder))).parent


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
    path = place_named(name, DataError)
    if not _is_pattern(name):
        return [path]
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    for file in found:
        look(file, DataError)
    found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"{name}: no file fits this pattern; check it, or give one file's name")
    return found
