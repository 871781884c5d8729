"""What happens in a run, as typed events: one line of JSON each in `events.jsonl`, and a call to each subscriber."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

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
    _file: TextIO | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> EventLog:
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
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
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        for subscriber in self.subscribers:
            subscriber(event)


def read_events(path: Path) -> list[dict[str, object]]:
    """The events of a file as dictionaries; a torn last line, as a kill leaves it, is skipped."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
