"""The terminal as a subscriber: progress bars in a terminal, lines in a log, and a line for each notable event.

In a terminal every stage and every run has a bar, which disappears when it ends. In a log (standard error is not a
terminal) a stage that takes longer than `LOG_FIRST` seconds gets lines with rate and time left, so that nobody has to
guess whether a silent program still works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from veneer.events import (
    AnswersJudged,
    Evaluated,
    Event,
    Level,
    MicroBatchHalved,
    Note,
    RunDone,
    RunEnd,
    RunEvent,
    RunFailed,
    RunFinished,
    RunsJoined,
    RunStarted,
    SamplesAnswered,
    StageBegun,
    StageEnded,
    StageProgress,
    StepBudget,
    StepDone,
    StepSkipped,
)
from veneer.screens.console import say
from veneer.screens.figures import answered, duration, rate
from veneer.text.counting import count_of

LOG_FIRST = 2.0
"""Seconds until the first line of a stage in a log."""
LOG_EVERY = 10.0
"""Least seconds between two lines of a stage in a log; in a long stage they are a tenth of the time passed apart."""
LOG_STEPS = 30.0
"""Most seconds of training without a line in a log, if steps are shorter than that."""
LOG_LINES = 10
"""Least number of lines of a whole run in a log, if it has as many steps."""
HEADLINES = ("rewards/accuracies", "rewards/margins")
"""The metrics of an evaluation that are shown next to its loss; the log of events has all of them."""


@dataclass(slots=True)
class _Shown:
    """A stage on the screen."""

    task: TaskID
    begun: float
    """The time at which it began, by the clock."""
    next: float
    """The time at which the next line in the log is due, by the clock."""
    lines: int = 0
    """The number of lines in the log so far."""


@dataclass(slots=True)
class _Run:
    """A run on the screen."""

    task: TaskID
    steps: int
    resumed_at: int
    tokens: int = 0
    seconds: float = 0.0
    """The time that this session's steps took, in seconds."""
    unsaid: float = 0.0
    """Seconds of training since the last line in the log."""
    losses: list[float] = field(default_factory=list)
    """The losses of the steps since the last line in the log."""


class _Facts(ProgressColumn):
    """The figures of a bar's stage or run; at first only the time passed."""

    def render(self, task: Task) -> Text:
        """See `rich.progress.ProgressColumn.render`."""
        return Text(task.fields["facts"] or duration(task.elapsed or 0.0))


class EventScreen:
    """Shows the events of any verb. Use as a context manager.

    Args:
        console: the console to show them on.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console, self._clock = console, clock
        self._bars = Progress(
            TextColumn(
                "{task.description}",
                style="bold",
                markup=False,  # a file's name may have brackets
                table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1),
            ),
            BarColumn(bar_width=10),
            _Facts(table_column=Column(no_wrap=True)),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._stages: dict[tuple[str, str], _Shown] = {}
        self._runs: dict[str, _Run] = {}

    def __enter__(self) -> EventScreen:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars.disable:  # rich before 14.3 ends even disabled bars by an empty line
            return
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunEvent():
                self._show(event.run, event.event)
            case RunsJoined():
                say(self.console, f"training {len(event.runs)} together: {', '.join(event.runs)}")
            case RunDone():
                say(self.console, f"{event.run}: {'was already complete' if event.before else 'done'}")
            case RunFailed():
                say(self.console, f"{event.run}: {event.message}")
            case _:
                self._show("", event)

    def _show(self, run: str, event: Event) -> None:
        match event:
            case StageBegun():
                self._begin(run, event)
            case StageProgress():
                self._advance(run, event)
            case StageEnded():
                self._end(run, event)
            case StepBudget():
                self._say(run, _budget(event))
            case RunStarted():
                self._start(run, event)
            case StepDone():
                self._step(run, event)
            case Evaluated():
                best = ", the best so far" if event.best else ""
                shown = [name for name in (*HEADLINES, event.best_by) if name in event.metrics]
                more = "".join(f", {name} {event.metrics[name]:.3g}" for name in dict.fromkeys(shown))
                self._say(run, f"step {event.step:,}: evaluation loss {event.loss:.4f}{more}{best}")
            case SamplesAnswered():
                self._say(run, _sample(event))
            case AnswersJudged(failed=failed) if failed:
                more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
                self._say(run, f"step {event.step:,}: answers left out, because a reward failed: {failed[0]}{more}")
            case StepSkipped():
                self._skip(run, event)
            case MicroBatchHalved():
                smaller = f"micro-batches of up to {event.tokens:,} tokens from here on, instead of {event.before:,}"
                self._say(run, f"step {event.step:,}: the memory is full; {smaller}")
            case Note():
                self._note(run, event)
            case RunFinished():
                self._finish(run, event)

    def _say(self, run: str, message: str) -> None:
        say(self.console, _named(run, message))

    def _note(self, run: str, note: Note) -> None:
        if note.level is Level.WARNING:
            say(self.console, _named(run, f"warning: {note.message}"), style="yellow")
        elif not run:
            # Several runs would all print nearly the same: it is in their logs.
            say(self.console, note.message)

    def _begin(self, run: str, event: StageBegun) -> None:
        now = self._clock()
        task = self._bars.add_task(_named(run, event.stage), total=event.total, facts="")
        self._stages[run, event.stage] = shown = _Shown(task, now, now + LOG_FIRST)
        if event.total is None and not run and not self.console.is_terminal:
            self._say(run, event.stage)
            shown.lines = 1

    def _advance(self, run: str, event: StageProgress) -> None:
        shown = self._stages.get((run, event.stage))
        if shown is None:
            return
        facts = _facts(event)
        self._bars.update(shown.task, completed=event.done, facts=facts)
        now = self._clock()
        if not self.console.is_terminal and now >= shown.next and event.done != event.total:
            self._say(run, f"{event.stage}: {facts}")
            shown.next = now + max(LOG_EVERY, (now - shown.begun) / 10)
            shown.lines += 1

    def _end(self, run: str, event: StageEnded) -> None:
        shown = self._stages.pop((run, event.stage), None)
        if shown is None:
            return
        self._bars.remove_task(shown.task)
        if shown.lines and event.seconds >= LOG_FIRST:
            self._say(run, f"{event.stage}: done in {duration(event.seconds)}")

    def _start(self, run: str, event: RunStarted) -> None:
        resumed = f", resumed after step {event.resumed_at:,}" if event.resumed_at else ""
        if not run:
            self._say(
                run,
                f"{event.method}: {count_of(event.trainable, 'trainable parameter')}, "
                f"{count_of(event.examples, 'row')}, "
                f"{count_of(event.steps, 'step')}, peak learning rate {event.learning_rate:.3g}{resumed}",
            )
        task = self._bars.add_task(
            run or "training", total=event.steps, completed=event.resumed_at, facts=f"{event.resumed_at}/{event.steps}"
        )
        self._runs[run] = _Run(task, event.steps, event.resumed_at)

    def _step(self, run: str, event: StepDone) -> None:
        known = self._runs.get(run)
        if known is None:
            return
        known.tokens += event.tokens
        known.seconds += event.seconds
        known.unsaid += event.seconds
        known.losses.append(event.loss)
        left = (known.steps - event.step) * known.seconds / max(1, event.step - known.resumed_at)
        speed = f"{known.tokens / max(known.seconds, 1e-9):,.0f} tok/s  {event.memory_mb:,.0f} MB"
        count = f"{event.step}/{known.steps}"
        facts = f"{count}  loss {event.loss:.3f}  {speed}  left {duration(left)}"
        self._bars.update(known.task, completed=event.step, facts=facts)
        tenth = event.step % max(1, known.steps // LOG_LINES) == 0
        if not self.console.is_terminal and (tenth or known.unsaid >= LOG_STEPS):
            mean = f"  mean of {count_of(len(known.losses), 'step')} {sum(known.losses) / len(known.losses):.3f}"
            mean = mean if len(known.losses) > 1 else ""
            self._say(run, f"step {count}  loss {event.loss:.3f}{mean}  {speed}  left {duration(left)}")
            known.unsaid, known.losses = 0.0, []

    def _skip(self, run: str, event: StepSkipped) -> None:
        known = self._runs.get(run)
        if known is not None:
            known.seconds += event.seconds
            self._bars.update(known.task, completed=event.step)
        counted = f"left out ({event.skipped:,} so far)"
        say(self.console, _named(run, f"warning: step {event.step:,}: {event.reason}; {counted}"), style="yellow")

    def _finish(self, run: str, event: RunFinished) -> None:
        known = self._runs.pop(run, None)
        if known is not None:
            self._bars.remove_task(known.task)
        if run and event.reason is not RunEnd.COMPLETE:
            self._say(run, f"{event.reason} after step {event.step:,}")
        elif not run and event.reason is RunEnd.COMPLETE:
            self._say(run, _trained(event, 0 if known is None else known.resumed_at))


def _named(run: str, message: str) -> str:
    return f"{run}: {message}" if run else message


def _trained(event: RunFinished, before: int) -> str:
    """How many steps of a run were trained now, and how many before."""
    if before and before == event.step:
        return f"nothing was trained: the run already had all of its {count_of(before, 'step')}"
    more = f" after the {before:,} before" if before else ""
    trained = count_of(event.step - before, "step")
    return f"trained {trained}{more} in {duration(event.seconds)}, peak {event.memory_mb:,.0f} MB"


def _sample(event: SamplesAnswered) -> str:
    """The first sample on one line."""
    said = answered(event.prompts[0], event.answers[0])
    more = f", and {len(event.prompts) - 1} more in the log" if len(event.prompts) > 1 else ""
    cut = ", cut short" if event.cut_short else ""
    return f"step {event.step:,}: {said}{cut} (samples: {event.share:.1%} of the time{more})"


def _budget(event: StepBudget) -> str:
    """How many steps fit into a run's time limit, and how long all of them would take."""
    begin = f"time limit {duration(event.limit)}"
    pace = f"{event.seconds_per_step:.2g} s a step, as measured"
    if event.steps == event.full_steps:
        return f"{begin}: all {event.steps:,} steps fit, in about {duration(event.seconds)} ({pace})"
    return (
        f"{begin}: {event.steps:,} of {event.full_steps:,} steps fit, in about {duration(event.seconds)} ({pace}), "
        f"and the schedule is fitted to them; all steps would take about {duration(event.full_seconds)}"
    )


def _facts(event: StageProgress) -> str:
    """The progress of a stage: "120 of 272 tensors, 30/s, 5.1 s left"; until one is done, "0 of 150 rows, 3,120
    tokens"."""
    of = "" if event.total is None else f" of {event.total:,}"
    facts = [f"{event.done:,}{of} {event.unit}".rstrip()]
    if event.rate > 0:
        facts.append(f"{rate(event.rate)}/s")
    elif event.item:
        facts.append(event.item)
    if event.seconds_left is not None:
        facts.append(f"{duration(event.seconds_left)} left")
    return ", ".join(facts)
