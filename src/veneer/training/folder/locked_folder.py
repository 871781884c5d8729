"""The output folder of a run: one process holds it at a time, and no complete result in it is overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from veneer.claims import refuse_other_kinds, refuse_replacing, refuse_the_models_folder
from veneer.config import RunConfig, parse, to_yaml
from veneer.config.values import read_yaml
from veneer.data.files.hub import HUB_PREFIX
from veneer.errors import ConfigError, DataError, OutputError, listing
from veneer.event_log import EventLog
from veneer.events import Level, Note, Subscriber
from veneer.io.files import make_output_folder, remove_partial, reported
from veneer.io.locks import LOCK, exclusive
from veneer.io.places import place_named
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.run_folder import EVENTS_FILE, RunFolder
from veneer.training.folder.killed import Killed, killed, mark


@dataclass(frozen=True, slots=True)
class LockedFolder:
    """The output folder of a run, held by this process."""

    log: EventLog
    killed: Killed | None
    """The process that had the folder before, if it was killed."""


@contextmanager
def locked_folder(config: RunConfig, resume: bool, emit: Subscriber, ranks: Ranks = ONE_RANK) -> Iterator[LockedFolder]:
    """Lock the run's output folder for this process, and open its log of events. Only rank 0 uses the folder; events of
    other ranks go to their `emit` and are not written. A folder that is created here is removed again if no event came,
    so that a refused run leaves nothing.

    Raises:
        OutputError: the folder cannot be written, is in use, belongs to the model, holds a run that is not being
            resumed, or holds a result of another kind.
    """
    folder = RunFolder(Path(config.output))
    if not ranks.first:
        yield LockedFolder(EventLog(folder.events_file, emit), None)
        return
    refuse_the_models_folder(config.model, folder.path)
    _refuse_own_rows(config, folder)
    made = [place for place in (folder.path, *folder.path.parents) if not place.exists()]
    make_output_folder(folder.path)
    with exclusive(folder.path, mark(), lambda: _refuse_overwriting(folder, resume)) as left:
        before = killed(left, folder.each_event())
        _clear(folder)
        try:
            # For a run that has ended, nothing is written until it is known whether there is more to do.
            with EventLog(folder.events_file, emit, held=folder.lock_file.is_file()) as log:
                if before is not None:
                    log.emit(Note(message=before.message(), level=Level.WARNING))
                yield LockedFolder(log, before)
        finally:
            _remove_unused(folder, made)


def _remove_unused(folder: RunFolder, made: Sequence[Path]) -> None:
    """Delete folders that this process has created, if the run's folder holds only its lock and an empty log. A process
    that takes the lock before it is deleted notices the deletion, and files that another process puts there are not
    deleted.

    Args:
        folder: the run's folder, which is locked.
        made: the created folders, innermost first; empty if the run's folder existed before.
    """
    with suppress(OSError):
        if not made or {entry.name for entry in folder.path.iterdir()} != {LOCK, EVENTS_FILE}:
            return
        if folder.events_file.stat().st_size:
            return
        folder.events_file.unlink()
        (folder.path / LOCK).unlink()
        for place in made:
            place.rmdir()


def _refuse_own_rows(config: RunConfig, folder: RunFolder) -> None:
    """Refuse rows in files that the run writes itself: it would replace them, or delete them as leftovers of an earlier
    run."""
    data = config.data
    names = [name for name in (data.file, data.eval_file, *(source.file for source in data.sources)) if name]
    with reported(folder.path):
        taken = [
            f"{name}: {file.name}"
            for name in names
            for file in folder.own_files
            if not name.startswith(HUB_PREFIX) and _means(place_named(name, DataError), file)
        ]
    if taken:
        raise OutputError(
            f"the run would read rows from files that it writes itself in {folder.path}; give another output folder, "
            f"or move the rows:\n{listing(taken)}"
        )


def _means(name: Path, file: Path) -> bool:
    """Whether a file is the named one, or matches a pattern."""
    if name.exists() and file.exists():
        return name.samefile(file)
    return PurePath(os.path.abspath(file)).match(os.path.abspath(name))


def _refuse_overwriting(folder: RunFolder, resume: bool) -> None:
    if folder.resumable and not resume:
        raise OutputError(f"{folder.path} already holds a run; resume it with --resume, or give another output folder")
    if folder.weights and not folder.resumable:
        raise OutputError(
            f"{folder.path} holds {' and '.join(folder.weights)} and no checkpoint: there is nothing to resume, "
            "and the trained weights would be replaced. Give another output folder; to continue from an adapter, use "
            "--from-adapter"
        )
    if not folder.resumable:
        refuse_other_kinds(folder.path, "run")
        refuse_replacing(folder.path, [file.name for file in _strangers(folder)], "run")


def _strangers(folder: RunFolder) -> Iterator[Path]:
    """Files with names that runs use, in a folder without a checkpoint, that belong to something else."""
    events, settings = folder.events_file, folder.config_file
    if settings.is_file() and not any(one["event"] == "RunStarted" for one in folder.each_event()):
        # The log may be that of a later run that ended while it loaded its model.
        try:
            own = to_yaml(parse(read_yaml(settings), where=str(settings))) == settings.read_text(encoding="utf-8")
        except (ConfigError, OSError, ValueError):
            own = False
        if not own:
            yield settings
    if events.is_file() and events.stat().st_size and next(folder.each_event(), None) is None:
        yield events


def _clear(folder: RunFolder) -> None:
    """Delete what earlier runs have left unfinished."""
    remove_partial(folder.path)
    remove_partial(folder.checkpoints)
    if not folder.resumable:
        # Events of a run that ended before its first checkpoint do not belong to this run.
        with reported(folder.path):
            folder.events_file.unlink(missing_ok=True)
