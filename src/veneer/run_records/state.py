"""The state of a run, as its folder shows it.

A process that trains holds the lock of the run's folder, and leaves a mark in it if it is killed. How another run ended
is recorded at the end of its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from veneer.events import RunEnd
from veneer.io.files import read_regular
from veneer.io.locks import LOCK
from veneer.run_folder import RunFolder
from veneer.runtime.posix import is_locked


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    """A process holds the folder."""
    FINISHED = "finished"
    """All steps were made, and the folder holds the result."""
    STOPPED = "stopped"
    """Somebody stopped it; it continues with `--resume`."""
    FAILED = "failed"
    """It ended with an error: the loss was not finite, there was not enough memory, a file could not be used. Or it
    made all steps, and could not write its result; it then continues with `--resume`."""
    KILLED = "killed"
    """Its process was killed, or the machine went down; it continues with `--resume`."""


def state_of(folder: Path, end: Mapping[str, Any]) -> RunState:
    """The state of the run in a folder.

    Args:
        end: the values of the `RunFinished` of its last start (`RunLog.end`); empty if it reported no end.
    """
    mark = mark_of(folder)
    # A process writes its mark as soon as it has the lock, so if the mark is empty, the lock need not be checked.
    if mark:
        return RunState.RUNNING if is_locked(folder / LOCK) else RunState.KILLED
    reason = end.get("reason")
    # The last step is reported before the result is written, of which `run.lock` is the last file.
    if reason == RunEnd.COMPLETE and RunFolder(folder).lock_file.is_file():
        return RunState.FINISHED
    return RunState.STOPPED if reason == RunEnd.INTERRUPTED else RunState.FAILED


def mark_of(folder: Path) -> str:
    """The mark that a process of the run holds or has left; empty if it ended by itself, or never began."""
    try:
        return read_regular(folder / LOCK, errors="replace")
    except OSError:
        return ""
