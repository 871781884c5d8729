"""The state of a run, from what its folder says.

A process that trains holds the lock of the run's folder, and leaves a mark in it if it is killed. How a run ended that
was not killed stands at the end of its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from veneer.io.files import read_regular
from veneer.io.locks import LOCK
from veneer.runtime.posix import is_locked


class RunState(StrEnum):
    """What has become of a run."""

    RUNNING = "running"
    """A process holds the folder."""
    FINISHED = "finished"
    """All steps were made, and the result stands in the folder."""
    STOPPED = "stopped"
    """Somebody asked it to stop; it goes on with `--resume`."""
    FAILED = "failed"
    """It ended by an error: the loss was not finite, there was no memory, a file could not be used."""
    KILLED = "killed"
    """Its process was killed, or the machine went down; it goes on with `--resume`."""


def state_of(folder: Path, end: Mapping[str, Any]) -> RunState:
    """The state of the run in a folder.

    Args:
        folder: of the run.
        end: the values of the `RunFinished` of its last start (`RunLog.end`); empty where it told of no end.
    """
    mark = mark_of(folder)
    # A process writes its mark as soon as it has the lock, so that an empty one needs no look at the lock itself.
    if mark:
        return RunState.RUNNING if is_locked(folder / LOCK) else RunState.KILLED
    reason = end.get("reason")
    if reason == "complete":
        return RunState.FINISHED
    return RunState.STOPPED if reason == "interrupted" else RunState.FAILED


def mark_of(folder: Path) -> str:
    """The mark that a process of the run holds or has left; empty where it ended by itself, or never began."""
    try:
        return read_regular(folder / LOCK, errors="replace")
    except OSError:
        return ""
