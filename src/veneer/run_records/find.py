"""The runs in a folder and below it, and the differences between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veneer.arguments import check_types
from veneer.errors import ConfigError
from veneer.run_folder import CHECKPOINTS, EVENTS_FILE, RunFolder
from veneer.run_records.log import RunLog
from veneer.run_records.record import RunRecord, by_key, read_record, read_settings

DEPTH = 4
"""The number of levels of folders that are searched: runs of a sweep or a comparison are one or two levels down."""


def runs(folder: str | Path) -> list[RunRecord]:
    """The runs in a folder, the newest first: their states, losses and times, as recorded in their folders.

    A run is a folder with a log of events (`events.jsonl`), at most four levels down. Folders that cannot be read are
    skipped.

    Args:
        folder: the folder to search.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.

    >>> run = veneer.train({"model": model, "output": "all/one", "data": {"file": data}, "train": {"steps": 1}})
    >>> [found.state.value for found in veneer.runs("all")]
    ['finished']
    """
    check_types(runs, locals())
    root = existing(Path(folder))
    found = [open_run(path, path.relative_to(root).as_posix())[0] for path in run_folders(root)]
    return sorted(found, key=lambda one: (-(one.begun or 0.0), one.name))


def existing(folder: Path) -> Path:
    """The folder, which exists and can be read.

    Raises:
        ConfigError: it does not exist, or cannot be read.
    """
    try:
        if not folder.is_dir():
            problem = "not a folder" if folder.exists() else "no such folder"
            raise ConfigError(f"{folder}: {problem}; give one that holds the folders of runs")
        next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror or error}; give a readable folder") from error
    return folder


def run_folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders of runs below a folder, and the folder itself if it is one. Links are not followed, and unreadable
    folders are skipped."""
    if _is_readable(root / EVENTS_FILE):
        yield root
    if not depth:
        return
    try:
        below = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.is_symlink())
    except OSError:
        return  # deleted meanwhile, or another user's
    for entry in below:
        if entry.name != CHECKPOINTS and not entry.name.startswith("."):
            yield from run_folders(entry, depth - 1)


def _is_readable(file: Path) -> bool:
    """Whether a file exists and can be read."""
    try:
        if not file.is_file():
            return False
        with file.open("rb"):
            return True
    except OSError:
        return False  # deleted meanwhile, or another user's


def open_run(folder: Path, name: str | None = None) -> tuple[RunRecord, RunLog, dict[str, Any]]:
    """A run's record, log and settings.

    Raises:
        ConfigError: the folder holds no run, or its log cannot be read.
    """
    log = RunLog(RunFolder(folder).events_file)
    try:
        if not log.path.is_file():
            raise ConfigError(f"{folder}: holds no run (no {EVENTS_FILE}); give the output folder of a run")
        log.refresh()
    except OSError as error:
        raise ConfigError(
            f"{log.path}: cannot be read: {error.strerror or error}; give the folder of a readable run"
        ) from error
    settings = read_settings(folder)
    named = folder.resolve().name if name in (None, ".") else str(name)
    return read_record(named, folder, log, settings), log, settings


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two runs, by their dotted keys, with both values; the output folder is left out.

    Args:
        one: the nested settings of a run.
        other: those of another run.
    """
    ours, theirs = by_key(one), by_key(other)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return {
        key: (ours.get(key), theirs.get(key))
        for key in keys
        if key != "output" and ours.get(key) != theirs.get(key)
    }  # fmt: skip
