"""Passes the events of a run to a board, as numbers, texts and tables."""

from __future__ import annotations

from collections.abc import Callable

from veneer.events import Evaluated, Event, Note, RunFinished, SamplesAnswered, StepDone, StepSkipped
from veneer.text.strict_json import to_text, with_reasons
from veneer.trackers.board import Board, Table, TrackedOutcome, TrackedRun

STEP = ("loss", "grad_norm", "learning_rate", "epoch", "memory_mb", "tokens", "supervised", "seconds")
"""Fields of a step that are passed on as numbers."""
KILLED = "killed"
"""The end of a run that reported none."""


class Teller:
    """Passes the events of one run to a board. Events that come before the run begins wait for it.

    Args:
        open_board: makes the board when the run begins.
    """

    def __init__(self, open_board: Callable[[TrackedRun], Board]):
        self._open = open_board
        self._board: Board | None = None
        self._early: list[Event] = []
        self._step = 0
        self._reason: str = KILLED

    def begin(self, run: TrackedRun) -> None:
        """Open the board of a run."""
        self._board, self._step = self._open(run), run.resumed_at
        for event in self._early:
            self._tell(self._board, event)
        self._early = []

    def take(self, event: Event) -> None:
        """Pass on an event."""
        if self._board is None:
            self._early.append(event)
        else:
            self._tell(self._board, event)

    def conclude(self, outcome: TrackedOutcome) -> None:
        """Pass on the outcome of the run."""
        if self._board is None:
            return
        for name, values in outcome.documents.items():
            text = to_text(with_reasons(values), indent=2, ensure_ascii=False)
            self._board.document(name, text)
        for name, table in outcome.tables.items():
            self._board.table(name, table, self._step)

    def close(self) -> None:
        """End the board."""
        if self._board is not None:
            self._board.close(self._reason)

    def _tell(self, board: Board, event: Event) -> None:
        match event:
            case StepDone():
                self._step = event.step
                values = {f"train/{name}": float(getattr(event, name)) for name in STEP}
                values["train/tokens_per_second"] = event.tokens / max(event.seconds, 1e-9)
                values |= {f"objective/{name}": value for name, value in event.metrics.items()}
                board.numbers(values, event.step)
            case Evaluated():
                values = {f"evaluation/{name}": value for name, value in event.metrics.items()}
                board.numbers({"evaluation/loss": event.loss, **values}, event.step)
            case SamplesAnswered():
                rows = [(event.step, *one) for one in zip(event.prompts, event.answers, strict=True)]
                board.table("samples", Table(("step", "prompt", "answer"), rows), event.step)
            case StepSkipped():
                board.text("skipped", f"step {event.step}: {event.reason}", event.step)
            case Note():
                board.text(event.level.value, event.message, self._step)
            case RunFinished():
                self._reason = event.reason.value
                board.text("end", f"{event.reason} after step {event.step}", event.step)
