"""The outcomes of a sweep's points, read from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from veneer.event_log import by_step
from veneer.events import RunEnd
from veneer.io.digests import file_key
from veneer.run_folder import RunFolder
from veneer.sweeps.grid import Point
from veneer.text.counting import count_of
from veneer.text.strict_json import restored, to_text, with_reasons
from veneer.training.evaluations.best import LOSS, BestBy, as_loss, best_by

RECENT = 0.1
"""The share of the steps, at the end of a run, over which the training loss is averaged."""


class PointState(StrEnum):
    """How far a point of the grid is: how its run ended, unless it still has to be trained."""

    COMPLETE = RunEnd.COMPLETE.value
    DIVERGED = RunEnd.DIVERGED.value
    INTERRUPTED = RunEnd.INTERRUPTED.value
    """It was stopped or killed, or its result is not complete; the same command continues it."""
    OUT_OF_MEMORY = RunEnd.OUT_OF_MEMORY.value
    RANK_LOST = RunEnd.RANK_LOST.value
    FAILED = RunEnd.FAILED.value
    WAITING = "waiting"
    """Nothing was trained."""


_STATES = {end.value: PointState(end.value) for end in RunEnd}
"""The state of a point by the end of its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """The outcome of one point of the grid."""

    name: str
    settings: Mapping[str, Any]
    state: PointState
    steps: int = 0
    seconds: float = 0.0
    """The seconds of its steps. If several runs share a pass, each counts its part of the time."""
    train_loss: float | None = None
    """The mean loss over the last tenth of its steps."""
    final_loss: float | None = None
    """The loss of the last evaluation."""
    best_loss: float | None = None
    """The loss of the best evaluation, as in the run's own summary; None if no evaluation is the best."""
    best_step: int | None = None
    """The step of the best evaluation, by `best_by`."""
    best_by: str = LOSS
    """The criterion for comparing the points of the sweep: `loss`, or the name of a metric."""
    best_value: float | None = None
    """The metric of the best evaluation; None if points are compared by the loss."""
    higher: bool = False
    """Whether a higher value is better."""

    @property
    def judged(self) -> float | None:
        """The value by which points are compared: the best metric, or the best evaluation loss, or the training loss if
        nothing is evaluated."""
        if self.best_by != LOSS:
            return self.best_value
        return self.train_loss if self.final_loss is None else self.best_loss

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in (PointState.COMPLETE, PointState.DIVERGED)


def compared_by(found: Iterable[Point]) -> BestBy:
    """The criterion for comparing points: the metric of their evaluations, or the loss if they share no metric.

    Raises:
        ConfigError: the `train.best_metric` of a point is not a metric of its objective.
    """
    metrics = {best_by(point.config) for point in found}
    return metrics.pop() if len(metrics) == 1 else BestBy()


def read_outcome(point: Point, by: BestBy) -> SweepOutcome:
    """The outcome in a point's folder.

    Args:
        point: the point of the sweep.
        by: the criterion for comparing the sweep's points.
    """
    folder = RunFolder(Path(point.config.output))
    events = folder.events()
    losses, evaluations = by_step(events, "StepDone", "loss"), by_step(events, "Evaluated", "loss")
    values = evaluations if by.measure == LOSS else _metric(events, by.measure)
    state = PointState.WAITING
    for event in events:
        if event.get("event") == "RunStarted":
            state = PointState.INTERRUPTED
        elif event.get("event") == "RunFinished":
            state = _STATES.get(str(event.get("reason")), PointState.INTERRUPTED)
    if state is PointState.COMPLETE and not _is_whole(folder):
        state = PointState.INTERRUPTED
    recent = list(losses.values())[-max(1, int(RECENT * len(losses))) :]
    best = _best_step(values, by)
    return SweepOutcome(
        name=point.name,
        settings=point.settings,
        state=state,
        steps=max(losses, default=0),
        seconds=sum(by_step(events, "StepDone", "seconds").values()),
        train_loss=sum(recent) / len(recent) if recent else None,
        final_loss=evaluations[max(evaluations)] if evaluations else None,
        best_loss=None if best is None else evaluations[best],
        best_step=best,
        best_by=by.measure,
        best_value=None if best is None or by.measure == LOSS else values[best],
        higher=by.higher,
    )


class OutcomeTable:
    """The outcomes of a sweep's points, which are needed after every group of points. The logs are long, so a folder is
    read again only if its log has changed."""

    def __init__(self, by: BestBy):
        self._by = by
        self._read: dict[str, tuple[object, SweepOutcome]] = {}

    def of(self, points: Sequence[Point]) -> list[SweepOutcome]:
        """The present outcomes of these points."""
        return [self._outcome(point) for point in points]

    def _outcome(self, point: Point) -> SweepOutcome:
        folder = RunFolder(Path(point.config.output))
        state = _log_state(folder.events_file), folder.lock_file.is_file()
        kept = self._read.get(point.name)
        if kept is None or kept[0] != state:
            kept = self._read[point.name] = (state, read_outcome(point, self._by))
        return kept[1]


def _log_state(file: Path) -> object:
    try:
        return file_key(file)
    except OSError:
        return None  # the run was never begun, or its folder was deleted meanwhile


def lost_of(point: Point) -> str | None:
    """The part of a point's log that is missing although other files show that it existed; None if the log is complete.
    The table is made from the logs: without its log, a complete point would look as if it had never begun."""
    folder = RunFolder(Path(point.config.output))
    told, ended = set[object](), False
    for event in folder.each_event():
        if event.get("event") in ("StepDone", "StepSkipped"):
            told.add(event.get("step"))
        ended = ended or (event.get("event") == "RunFinished" and event.get("reason") == RunEnd.COMPLETE)
    steps = range(1, max([_published(folder), *folder.checkpoint_steps()]) + 1)
    missing = sum(step not in told for step in steps)
    if missing:
        return f"{folder.events_file} lacks {missing} of {count_of(len(steps), 'step')} that were made"
    return None if ended or not folder.lock_file.is_file() else f"{folder.events_file} lacks the end of the run"


def _published(folder: RunFolder) -> int:
    """The last step of a run that has published its result; 0 if it has not."""
    try:
        return int(json.loads(folder.summary_file.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return 0


def _is_whole(folder: RunFolder) -> bool:
    """Whether a finished run has published all of its files, of which `run.lock` is the last, and its result is
    complete. A damaged `run.lock` is refused later, where it is read."""
    try:
        names = list(json.loads(folder.lock_file.read_text(encoding="utf-8"))["result"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return True
    return all((folder.path / name).is_file() for name in names)


def _metric(events: Iterable[Mapping[str, Any]], name: str) -> Mapping[int, float]:
    """The values of a metric, by the step of the evaluation; of two evaluations after one step the later one counts."""
    evaluated = [restored(event) for event in events if event.get("event") == "Evaluated"]
    return {one["step"]: float(one["metrics"][name]) for one in evaluated if name in one.get("metrics", {})}


def _best_step(values: Mapping[int, float], by: BestBy) -> int | None:
    """The first step with the best value; None if no value is finite, like a run's own best evaluation."""
    finite = {step: as_loss(value, higher=by.higher) for step, value in values.items() if math.isfinite(value)}
    return min(finite, key=lambda step: (finite[step], step), default=None)


def best_of(outcomes: Sequence[SweepOutcome]) -> SweepOutcome | None:
    """The first finished point with the best metric, or with the lowest loss if points are compared by loss."""
    judged = [
        (as_loss(one.judged, higher=one.higher), one)
        for one in outcomes
        if one.state is PointState.COMPLETE and one.judged is not None
    ]
    return min(judged, key=lambda pair: pair[0])[1] if judged else None


def to_json(outcomes: Sequence[SweepOutcome]) -> list[dict[str, Any]]:
    """The outcomes as plain values."""
    return [with_reasons(asdict(one)) for one in outcomes]


def dumped(outcomes: Sequence[SweepOutcome]) -> str:
    """The outcomes as JSON."""
    return to_text(to_json(outcomes), indent=2) + "\n"
