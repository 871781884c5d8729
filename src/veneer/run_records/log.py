"""The log of one run as columns. Reading continues where it ended before.

A resumed run has reported some steps twice. The later report counts: a `RunStarted` that resumes after step 40 removes
everything that was reported about later steps.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from veneer.events import Level
from veneer.step_values import step_number
from veneer.text.strict_json import restored

COLUMNS = ("loss", "grad_norm", "learning_rate", "tokens", "supervised", "seconds", "memory_mb", "epoch", "time")
"""The values that are kept of every step: fields of `StepDone`, and the time of the report, in seconds since 1970."""
FIGURES = ("tokens", "supervised", "seconds", "memory_mb", "epoch")
"""Columns that always have a number, of at least 0: a line without one was not written by a run of veneer."""
MOST = 1e15
"""A bound above any figure of a run."""
LATEST = 253_402_300_799
"""The last second of the year 9999, from 1970: later times have no date."""
MOST_NOTES = 500
"""The number of lines of a run's log that are kept, from the end."""
MOST_SAMPLES = 100
"""The number of steps whose samples are kept, from the end."""
MOST_JUDGED = 60
"""The number of steps whose judged answers are kept. If there are more, every other one is dropped, so that the whole
run remains visible."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a run's log for people."""

    time: float
    """The time of the report, in seconds since 1970."""
    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class EvaluatedStep:
    """An evaluation loss."""

    step: int
    loss: float
    best: bool
    best_by: str
    """What evaluations are compared by: `loss`, or the name of a metric."""
    value: float | None
    """The value of that metric; None if it is the loss."""
    time: float
    """The time of the report, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SampledStep:
    """The answers of the model after a step, to the same prompts every time."""

    step: int
    prompts: list[str]
    answers: list[str]
    cut_short: bool
    """Whether answers were cut short."""


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """Answers that a step sampled for judging: those with the highest and the lowest reward."""

    step: int
    answers: int
    """The number of all sampled answers."""
    tokens: int
    """The number of their tokens."""
    failed: list[str]
    """The answers that a reward failed on, each with the reason."""
    prompts: list[str]
    """The prompt of each shown answer."""
    shown: list[str]
    rewards: list[float]
    """The reward of each shown answer."""


@dataclass(frozen=True, slots=True)
class _Added:
    """What has been added to the file of a log."""

    lines: bytes
    """Whole lines."""
    inode: int
    """The inode of the file."""
    anew: bool
    """Whether the file is a new one, so that these lines are its whole content."""


@dataclass(slots=True)
class RunLog:
    """The events of a run so far. `refresh` reads what has been added since; `refreshed` does so in a copy.

    Args:
        path: the file `events.jsonl` of the run's folder, which need not exist yet.
    """

    path: Path
    steps: array[int] = field(default_factory=lambda: array("q"), init=False)
    """The numbers of the completed steps, in increasing order."""
    columns: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in COLUMNS}, init=False)
    """A value for each of `steps`, by the name of the column."""
    metrics: dict[str, array[float]] = field(default_factory=dict, init=False)
    """A value of each metric of the objective for each of `steps`; NaN if a step has none."""
    evaluations: list[EvaluatedStep] = field(default_factory=list, init=False)
    samples: list[SampledStep] = field(default_factory=list, init=False)
    """The last samples of the run."""
    judged: list[JudgedStep] = field(default_factory=list, init=False)
    """Sampled answers with their rewards, from the first step to the last."""
    checkpoints: list[int] = field(default_factory=list, init=False)
    """Steps after which a checkpoint was saved; old ones may have been deleted since."""
    skipped: list[int] = field(default_factory=list, init=False)
    """Steps that were skipped as bad."""
    lines: list[LogLine] = field(default_factory=list, init=False)
    """The last notes and warnings."""
    dropped: int = field(default=0, init=False)
    """How many came before these."""
    first_start: dict[str, Any] = field(default_factory=dict, init=False)
    """The values of the first `RunStarted`; empty before it."""
    start: dict[str, Any] = field(default_factory=dict, init=False)
    """The values of the last `RunStarted`."""
    end: dict[str, Any] = field(default_factory=dict, init=False)
    """The values of the `RunFinished` after it; empty while there is none."""
    last_time: float = field(default=0.0, init=False)
    """The time of the last event, in seconds since 1970."""
    _stride: int = field(default=1, init=False)
    """The distance between two steps whose judged answers are kept."""
    _offset: int = field(default=0, init=False)
    _inode: int = field(default=0, init=False)

    def refresh(self) -> bool:
        """Read what has been added to the file. The result is whether there was anything. An incomplete line is read
        later.

        Raises:
            OSError: the file exists but cannot be read.
        """
        added = self._added()
        if added is not None:
            self._read_on(added)
        return added is not None and bool(added.lines)

    def refreshed(self) -> RunLog:
        """This log if nothing was added since, else a new one with the additions.

        A thread that reads this log meanwhile sees the same length of every column: its arrays do not grow.

        Raises:
            OSError: the file exists but cannot be read.
        """
        added = self._added()
        if added is None:
            return self
        later = RunLog(self.path)
        later._become(self)
        later._read_on(added)
        return later

    def _added(self) -> _Added | None:
        """What has been added to the file; None if nothing was."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        anew = found.st_ino != self._inode or found.st_size < self._offset
        if not anew and found.st_size == self._offset:
            return None
        with self.path.open("rb") as file:
            file.seek(0 if anew else self._offset)
            text = file.read()
        lines = text[: text.rfind(b"\n") + 1]
        return _Added(lines, found.st_ino, anew) if lines or anew else None

    def _read_on(self, added: _Added) -> None:
        if added.anew:
            self._become(RunLog(self.path))
            self._inode = added.inode
        self._offset += len(added.lines)
        for line in added.lines.splitlines():
            self._take(line)

    def _become(self, other: RunLog) -> None:
        """Take over the content of another log, without growing any part of it."""
        for one in fields(self):
            setattr(self, one.name, _copied(getattr(other, one.name)))

    def _take(self, line: bytes) -> None:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return  # a kill has cut it off
        if not isinstance(values, dict):
            return
        try:
            self._take_event(restored(values))
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return  # a field is missing, or has another type: not an event of veneer

    def _take_event(self, values: Mapping[str, Any]) -> None:
        time = _figure(values.get("time", 0.0), LATEST)
        self.last_time = max(self.last_time, time)
        match values["event"]:
            case "StepDone":
                self._take_step(values, time)
            case "RunStarted":
                self._take_start(values, time)
            case "Evaluated":
                by = str(values.get("best_by", "loss"))  # versions without it knew only the loss
                value = None if by == "loss" else float(values["metrics"][by])
                found = EvaluatedStep(
                    step_number(values["step"]), float(values["loss"]), bool(values["best"]), by, value, time
                )
                while self.evaluations and self.evaluations[-1].step >= found.step:
                    self.evaluations.pop()
                self.evaluations.append(found)
            case "SamplesAnswered":
                self._take_samples(values)
            case "AnswersJudged":
                self._take_judged(values)
            case "CheckpointSaved":
                self.checkpoints.append(step_number(values["step"]))
            case "StepSkipped":
                self.skipped.append(step_number(values["step"]))
                self._say(time, Level.WARNING, f"step {values['step']} was skipped: {values['reason']}")
            case "MicroBatchHalved":
                smaller = f"micro-batches of {values['tokens']:,} tokens from here on"
                self._say(time, Level.WARNING, f"step {values['step']}: the memory is full; {smaller}")
            case "Note":
                self._say(time, Level(values["level"]), str(values["message"]))
            case "RunFinished":
                self.end = dict(values)

    def _take_step(self, values: Mapping[str, Any], time: float) -> None:
        step = step_number(values["step"])
        told = {**values, "time": time}
        row = [_figure(told[name]) if name in FIGURES else float(told[name]) for name in COLUMNS]
        metrics = {str(name): float(value) for name, value in dict(values.get("metrics") or {}).items()}
        if self.steps and step <= self.steps[-1]:
            self._cut(step - 1)
        self.steps.append(step)
        for name, value in zip(COLUMNS, row, strict=True):
            self.columns[name].append(value)
        for name in metrics.keys() - self.metrics.keys():
            self.metrics[name] = array("d", [math.nan] * (len(self.steps) - 1))
        for name, column in self.metrics.items():
            column.append(metrics.get(name, math.nan))

    def _take_samples(self, values: Mapping[str, Any]) -> None:
        found = SampledStep(
            step_number(values["step"]), list(map(str, values["prompts"])), list(map(str, values["answers"])),
            bool(values["cut_short"]),
        )  # fmt: skip
        self.samples = [*(one for one in self.samples if one.step < found.step), found][-MOST_SAMPLES:]

    def _take_judged(self, values: Mapping[str, Any]) -> None:
        prompts, shown, failed = (list(map(str, values[key])) for key in ("prompts", "shown", "failed"))
        found = JudgedStep(
            step_number(values["step"]), int(values["answers"]), int(values["tokens"]), failed, prompts, shown,
            list(map(float, values["rewards"])),
        )  # fmt: skip
        while self.judged and (self.judged[-1].step >= found.step or not self._on_grid(self.judged[-1])):
            self.judged.pop()
        self.judged.append(found)
        if len(self.judged) > MOST_JUDGED:
            self._stride *= 2
            self.judged = [one for one in self.judged if self._on_grid(one) or one is found]

    def _on_grid(self, judged: JudgedStep) -> bool:
        """Whether a step's answers remain when later ones come."""
        return (judged.step - 1) % self._stride == 0

    def _take_start(self, values: Mapping[str, Any], time: float) -> None:
        start = {**values, "time": time, "steps": int(_figure(values.get("steps", 0)))}
        rate, planned = values.get("learning_rate"), ("planned_memory_mb", "planned_seconds")
        start["learning_rate"] = None if rate is None else float(rate)
        start |= {name: None if values.get(name) is None else _figure(values[name]) for name in planned}
        self._cut(step_number(values["resumed_at"]))
        self.start, self.end = start, {}
        self.first_start = self.first_start or self.start

    def _cut(self, step: int) -> None:
        """Remove what was reported about steps after `step`."""
        kept = bisect_right(self.steps, step)
        del self.steps[kept:]
        for column in (*self.columns.values(), *self.metrics.values()):
            del column[kept:]
        self.samples = [one for one in self.samples if one.step <= step]
        self.judged = [one for one in self.judged if one.step <= step]
        self.evaluations = [one for one in self.evaluations if one.step <= step]
        self.checkpoints = [one for one in self.checkpoints if one <= step]
        self.skipped = [one for one in self.skipped if one <= step]

    def _say(self, time: float, level: Level, message: str) -> None:
        self.lines.append(LogLine(time, level, message))
        self.dropped += len(self.lines) > MOST_NOTES
        del self.lines[:-MOST_NOTES]


def _copied(value: Any) -> Any:
    """A copy of a column, a list, or columns by name, which grows independently; a single value as it is."""
    return {name: copy(one) for name, one in value.items()} if isinstance(value, dict) else copy(value)


def _figure(value: Any, most: float = MOST) -> float:
    """A number of at least 0.

    Raises:
        ValueError: it is not a number, or out of range.
    """
    found = float(value)
    if not 0 <= found <= most:
        raise ValueError(f"{found} is not a figure of a run")
    return found
