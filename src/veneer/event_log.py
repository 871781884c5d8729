"""Writes and reads a run's `events.jsonl`, one line for each event, and skips lines that a kill has torn."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from veneer.errors import (
    CheckpointError,
    OutputError,
    reading,
)
from veneer.events import (
    Event,
    StageBegun,
    StageEnded,
    StageProgress,
    Subscriber,
    ignore,
    to_json,
)
from veneer.step_values import StepValues, step_number
from veneer.text.strict_json import NOT_FINITE, restored, to_text, with_reasons
from veneer.text.whole_lines import append_line


@dataclass(slots=True)
class EventLog:
    """Appends events to a file and passes them on to a subscriber. Use it as a context manager."""

    path: Path
    subscriber: Subscriber = ignore
    held: bool = False
    """Whether lines wait for `write_held`; if it is never called, they are not written."""
    _waiting: list[bytes] = field(default_factory=list, init=False, repr=False)
    _file: BinaryIO | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> EventLog:
        if self.path.exists() and not self.path.is_file():  # opening a pipe would wait forever for a reader
            raise OutputError(f"{self.path} is not a file; move it away, or give another output folder")
        try:
            self._file = self.path.open("ab", buffering=0)
            torn = _torn(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        if torn:
            self._write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def emit(self, event: Event) -> None:
        """Write one event and pass it on. Events of stages are only passed on.

        Raises:
            OutputError: the line could not be written, for example because the disk is full.
        """
        if self._file is not None and not isinstance(event, StageBegun | StageProgress | StageEnded):
            values = to_json(event)
            line = to_text(with_reasons({"event": values.pop("event"), "time": round(time.time(), 3), **values}))
            self._write(line.encode() + b"\n")
        self.subscriber(event)

    def write_held(self) -> None:
        """Write the waiting lines; from now on every line is written immediately.

        Raises:
            OutputError: see `emit`.
        """
        self.held = False
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if self.held:
            self._waiting.append(line)
            return
        assert self._file is not None
        try:
            append_line(self._file, line)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error


def _torn(path: Path) -> bool:
    """Whether a file ends in the middle of a line, as after a kill. The next line must not be appended to that one."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        return file.read() not in (b"", b"\n")


NUMBERS = {
    "RunStarted": ("steps", "resumed_at"), "StepDone": ("step", "loss", "seconds", "memory_mb"),
    "Evaluated": ("step", "loss"), "SamplesAnswered": ("step", "share"), "RunFinished": ("seconds", "memory_mb"),
}  # fmt: skip
"""The numbers that are read from an event, by its kind."""
WHOLE = frozenset({"step", "steps", "resumed_at"})
"""The names of the numbers that count steps."""


def iterate_events(path: Path) -> Iterator[dict[str, object]]:
    """The events of a file as dictionaries, one by one, since a long run has too many to hold in memory. Lines that a
    kill has torn, and lines that no run has written, are skipped.

    Raises:
        CheckpointError: the file cannot be read; raised when the first event is requested.
    """
    for line in _lines(path):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_whole(event):
            counts = WHOLE.intersection(NUMBERS.get(event["event"], ()))
            yield event | {name: step_number(event[name]) for name in counts}


def _lines(path: Path) -> Iterator[str]:
    with reading(CheckpointError, path), path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def _is_whole(event: Mapping[str, object]) -> bool:
    """Whether an object names its kind and has the numbers that are read from it. A damaged file may hold others."""
    kind, reasons = event.get("event"), event.get(NOT_FINITE)
    if not isinstance(kind, str):
        return False
    broken = reasons if isinstance(reasons, dict) else {}
    return all(
        _counts(event.get(name))
        if name in WHOLE
        else isinstance(event.get(name), int | float) or str(broken.get(name)) in ("nan", "inf", "-inf")
        for name in NUMBERS.get(kind, ())
    )


def _counts(value: object) -> bool:
    try:
        step_number(value)
    except ValueError:
        return False
    return True


def by_step(events: Iterable[Mapping[str, object]], kind: str, key: str) -> StepValues:
    """A number of every recorded event of one kind, by its step, in the order of the steps.

    A resumed run may have recorded a step twice. The later event counts.
    """
    own = (one for one in events if one.get("event") == kind)
    return StepValues((step_number(one["step"]), float(str(restored(one)[key]))) for one in own)
