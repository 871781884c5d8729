"""Logs of runs that were never trained, written event by event."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from veneer.event_log import EventLog, iterate_events
from veneer.events import CheckpointSaved, Evaluated, Note, RunEnd, RunFinished, RunStarted, StepDone
from veneer.run_folder import LOCK_FILE


def read_events(path: Path) -> list[dict[str, object]]:
    return list(iterate_events(path))


def started(steps: int, resumed_at: int = 0) -> RunStarted:
    return RunStarted(method="lora", steps=steps, resumed_at=resumed_at, examples=20, trainable=100, learning_rate=2e-4)


def step_done(step: int, loss: float | None = None) -> StepDone:
    return StepDone(
        step=step, epoch=step / 10, loss=3 * math.exp(-step / 20) if loss is None else loss, grad_norm=1.0,
        learning_rate=1e-4, tokens=100, supervised=40, seconds=0.5, memory_mb=200.0 + step,
    )  # fmt: skip


def finished(step: int, reason: RunEnd | str = RunEnd.COMPLETE) -> RunFinished:
    return RunFinished(step=step, reason=RunEnd(reason), seconds=step / 2, memory_mb=300.0)


def evaluated(step: int, loss: float, best: bool = True) -> Evaluated:
    return Evaluated(step=step, loss=loss, best=best, seconds=0.1)


def write_run(folder: Path, steps: int = 10, *, reason: str | None = "complete", config: str = "") -> Path:
    """The folder of a run that made some steps, and ended so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config or "model: base/tiny\nmethod: lora\noutput: x\n", encoding="utf-8")
    with EventLog(folder / "events.jsonl") as log:
        log.emit(Note(message="a note"))
        log.emit(started(steps))
        for step in range(1, steps + 1):
            log.emit(step_done(step))
        if steps:  # before the first step no run is evaluated
            log.emit(evaluated(steps, 0.5))
            log.emit(CheckpointSaved(step=steps, path="x", bytes=1, seconds=0.1))
        if reason is not None:
            log.emit(finished(steps, reason))
    if reason == RunEnd.COMPLETE:
        (folder / LOCK_FILE).write_text("{}", encoding="utf-8")
    return folder


def rewarded(run: Path, steps: int) -> Path:
    """A run whose objective has measures of its own."""
    with EventLog(run / "events.jsonl") as log:
        for step in range(1, steps + 1):
            log.emit(replace(step_done(step), metrics={"reward": step / 2, "kl": 0.1, "rewards/right": 1.0}))
    return run
