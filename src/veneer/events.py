"""What happens in a run, as typed events: one line of JSON each in `events.jsonl`, and a call to each subscriber."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from veneer.errors import OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The first event of a run, and of every resumption."""

    method: str
    steps: int
    """Steps in the whole run."""
    resumed_at: int
    """Steps that were done already."""
    examples: int
    trainable: int
    """Trainable parameters."""
    learning_rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """One optimiser step."""

    step: int
    """1-based."""
    epoch: float
    loss: float
    """Mean over the step's supervised tokens, nats."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    supervised: int
    """Tokens that count in the loss."""
    seconds: float
    memory_mb: float
    """Peak resident (CPU) or allocated (GPU) memory so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The evaluation loss after a step."""

    step: int
    loss: float
    best: bool
    """Whether it is the lowest so far."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved:
    """A checkpoint stands complete on disk."""

    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the user should know, in a sentence."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFinished:
    """The last event of a run."""

    step: int
    reason: str
    """`complete`, `interrupted` or `diverged`."""
    seconds: float
    memory_mb: float
    best_step: int | None = None
    best_loss: float | None = None


Event = RunStarted | StepDone | Evaluated | CheckpointSaved | Note | RunFinished
Subscriber = Callable[[Event], None]


@dataclass(slots=True)
class EventLog:
    """Appends events to a file and tells subscribers. Use as a context manager."""

    path: Path
    subscribers: Sequence[Subscriber] = ()
    _file: BinaryIO | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> EventLog:
        try:
            # Unbuffered: what a full disk refused must not be tried again, and fail again, when the file is closed.
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
        """Write one event and pass it on.

        Raises:
            OutputError: the line could not be written (a full disk, say).
        """
        if self._file is not None:
            line = json.dumps({"event": type(event).__name__, "time": round(time.time(), 3), **asdict(event)})
            self._write(line.encode() + b"\n")
        for subscriber in self.subscribers:
            subscriber(event)

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        try:
            written = self._file.write(line)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        if written != len(line):
            raise OutputError(f"{self.path}: only {written} of {len(line)} bytes could be written: the disk is full")


def _torn(path: Path) -> bool:
    """Whether a file ends in the middle of a line, as a kill leaves it: the next line must not be glued to it."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        return file.read() not in (b"", b"\n")


def read_events(path: Path) -> list[dict[str, object]]:
    """The events of a file as dictionaries; torn lines, as kills leave them, are skipped."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
