"""What `veneer train` shows: a bar with loss, rate, time left and memory, and a line for what is worth one."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from veneer.config import RunConfig
from veneer.events import CheckpointSaved, Evaluated, Event, Note, RunFinished, RunStarted, StepDone, Subscriber
from veneer.screens.console import console, write_to_stderr
from veneer.screens.figures import duration
from veneer.training.interrupt import interruptible
from veneer.training.run import RunResult, train

SMOOTHING = 0.9
"""Weight of the past in the loss that the progress bar shows."""


class TrainingDisplay:
    """Follows a run's events: a bar with loss, rate, time left and memory, and a line for what is worth one."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._steps = 0
        self._begun_at = 0
        self._loss: float | None = None
        self._tokens = 0
        self._seconds = 0.0

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunStarted():
                self._start(event)
            case StepDone():
                self._step(event)
            case Evaluated():
                best = ", the best so far" if event.best else ""
                self._say(f"step {event.step}: evaluation loss {event.loss:.4f}{best}")
            case Note():
                self._say(event.message)
            case CheckpointSaved():
                pass
            case RunFinished():
                if event.reason == "complete":
                    self._say(
                        f"trained {event.step} steps in {duration(event.seconds)}, peak {event.memory_mb:,.0f} MB"
                    )

    def _start(self, event: RunStarted) -> None:
        resumed = f", going on after step {event.resumed_at}" if event.resumed_at else ""
        self._say(
            f"{event.method}: {event.trainable:,} trainable parameters, {event.examples:,} rows, "
            f"{event.steps:,} steps, peak learning rate {event.learning_rate:.3g}{resumed}"
        )
        self._steps, self._begun_at = event.steps, event.resumed_at
        self._task = self._progress.add_task("training", total=event.steps, completed=event.resumed_at, facts="")

    def _step(self, event: StepDone) -> None:
        self._loss = event.loss if self._loss is None else SMOOTHING * self._loss + (1 - SMOOTHING) * event.loss
        self._tokens += event.tokens
        self._seconds += event.seconds
        speed = self._tokens / max(self._seconds, 1e-9)
        facts = f"loss {self._loss:.3f}  {speed:,.0f} tok/s  {event.memory_mb:,.0f} MB"
        if self._task is not None:
            self._progress.update(self._task, completed=event.step, facts=facts)
        if not self.console.is_terminal and event.step % max(1, self._steps // 10) == 0:
            left = (self._steps - event.step) * self._seconds / max(1, event.step - self._begun_at)
            line = f"step {event.step}/{self._steps}  {facts}  left {duration(left)}"
            self.console.print(Text(line), soft_wrap=True)

    def _say(self, message: str) -> None:
        self.console.print(Text(message), soft_wrap=True)


def train_visibly(config: RunConfig, *, resume: bool = False, as_json: bool = False) -> RunResult:
    """Train with a progress bar, or with every event as a line of JSON on standard output; Ctrl-C ends after a step."""
    screen = console()
    notice = "stopping after this step; once more to stop at once (the last checkpoint stays)"
    with interruptible(lambda: write_to_stderr(f"\n{notice}\n")) as stop:
        if as_json:
            return train(config, resume=resume, subscribers=[_print_event], stop=stop)
        with TrainingDisplay(screen) as display:
            subscribers: list[Subscriber] = [display]
            return train(config, resume=resume, subscribers=subscribers, stop=stop)


def _print_event(event: Event) -> None:
    click.echo(json.dumps({"event": type(event).__name__, **asdict(event)}))
