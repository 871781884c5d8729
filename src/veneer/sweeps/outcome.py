"""What the points of a sweep came to, read from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veneer.event_log import by_step
from veneer.io.digests import file_key
from veneer.run_folder import RunFolder
from veneer.sweeps.grid import Point
from veneer.text.counting import count_of
from veneer.text.strict_json import restored, to_text, with_reasons
from veneer.training.evaluations.best import LOSS, BestBy, as_loss, best_by

RECENT = 0.1
"""Share of the steps at the end whose mean is a run's training loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """What became of one point of the grid."""

    name: str
    settings: Mapping[str, Any]
    state: str
    """`complete`, `diverged`, `interrupted`, or `waiting` where nothing was trained."""
    steps: int = 0
    seconds: float = 0.0
    """Seconds that its steps took. Where several runs share a pass, each counts its part of the time."""
    train_loss: float | None = None
    """The mean loss over the last tenth of its steps, in nats per supervised token."""
    final_loss: float | None = None
    """The loss of the last evaluation."""
    best_loss: float | None = None
    """The loss of the best evaluation, as the run's own summary has it; None where no evaluation is the best."""
    best_step: int | None = None
    """The step of the best evaluation, by `best_by`."""
    best_by: str = LOSS
    """What the points of the sweep are compared by: `loss`, or the name of a metric."""
    best_value: float | None = None
    """The metric of the best evaluation; None where points are compared by the loss."""
    higher: bool = False
    """Whether a higher number is better."""

    @property
    def judged(self) -> float | None:
        """The number that points are compared by: the best metric, or the best evaluation loss, or the training loss
        where nothing is evaluated."""
        if self.best_by != LOSS:
            return self.best_value
        return self.train_loss if self.final_loss is None else self.best_loss

    @property
    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.state in ("complete", "diverged")


def compared_by(found: Iterable[Point]) -> BestBy:
    """What points are compared by: the metric of their evaluations, or the loss where they do not have one in common.

    Raises:
        ConfigError: the `train.best_metric` of a point is none of its objective's.
    """
    metrics = {best_by(point.config) for point in found}
    return metrics.pop() if len(metrics) == 1 else BestBy()


def read_outcome(point: Point, by: BestBy) -> SweepOutcome:
    """What a point's folder holds.

    Args:
        point: of a sweep.
        by: what the sweep's points are compared by.
    """
    folder = RunFolder(Path(point.config.output))
    events = folder.events()
    losses, evaluations = by_step(events, "StepDone", "loss"), by_step(events, "Evaluated", "loss")
    values = evaluations if by.measure == LOSS else _metric(events, by.measure)
    state = "waiting"
    for event in events:
        if event.get("event") == "RunStarted":
            state = "interrupted"
        elif event.get("event") == "RunFinished":
            state = str(event["reason"])
    if state == "complete" and not _is_whole(folder):
        state = "interrupted"
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
    """The outcomes of a sweep's points, which are asked for after every group of points. All logs together are long, so
    that a folder is read again only where its log has changed."""

    def __init__(self, by: BestBy):
        self._by = by
        self._read: dict[str, tuple[object, SweepOutcome]] = {}

    def of(self, points: Sequence[Point]) -> list[SweepOutcome]:
        """What the folders of these points hold by now."""
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
        return None  # it was never begun, or its folder was deleted meanwhile


def lost_of(point: Point) -> str | None:
    """What a point's log has lost of what its folder says was made; None where it tells of all of it. The table is made
    from the log: without it a point that is complete would look as if it had never begun.

    Args:
        point: of a sweep.
    """
    folder = RunFolder(Path(point.config.output))
    told, ended = set[object](), False
    for event in folder.each_event():
        if event.get("event") in ("StepDone", "StepSkipped"):
            told.add(event.get("step"))
        ended = ended or (event.get("event") == "RunFinished" and event.get("reason") == "complete")
    steps = range(1, max([_published(folder), *folder.checkpoint_steps()]) + 1)
    missing = sum(step not in told for step in steps)
    if missing:
        return f"{folder.events_file} has lost {missing} of {count_of(len(steps), 'step')} that were made"
    return None if ended or not folder.lock_file.is_file() else f"{folder.events_file} has lost the end of the run"


def _published(folder: RunFolder) -> int:
    """The step after which a run ended that has published its result; 0 where it has not."""
    try:
        return int(json.loads(folder.summary_file.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return 0


def _is_whole(folder: RunFolder) -> bool:
    """Whether a run that ended has published its files, of which `run.lock` is the last, and its result is all there.
    What a damaged `run.lock` says is asked later, by whoever refuses it."""
    try:
        names = list(json.loads(folder.lock_file.read_text(encoding="utf-8"))["result"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return True
    return all((folder.path / name).is_file() for name in names)


def _metric(events: Iterable[Mapping[str, Any]], name: str) -> Mapping[int, float]:
    """A metric of every evaluation that has it, by its step; the later of two evaluations after one step counts."""
    evaluated = [restored(event) for event in events if event.get("event") == "Evaluated"]
    return {one["step"]: float(one["metrics"][name]) for one in evaluated if name in one.get("metrics", {})}


def _best_step(values: Mapping[int, float], by: BestBy) -> int | None:
    """The first step with the best value; None where no value is finite, as a run's own best evaluation has it."""
    finite = {step: as_loss(value, higher=by.higher) for step, value in values.items() if math.isfinite(value)}
    return min(finite, key=lambda step: (finite[step], step), default=None)


def best_of(outcomes: Sequence[SweepOutcome]) -> SweepOutcome | None:
    """The first finished point with the best metric, or with the lowest loss where points are compared by that."""
    judged = [
        (as_loss(one.judged, higher=one.higher), one)
        for one in outcomes
        if one.state == "complete" and one.judged is not None
    ]
    return min(judged, key=lambda pair: pair[0])[1] if judged else None


def to_json(outcomes: Sequence[SweepOutcome]) -> list[dict[str, Any]]:
    """The outcomes as plain values."""
    return [with_reasons(asdict(one)) for one in outcomes]


def dumped(outcomes: Sequence[SweepOutcome]) -> str:
    """The outcomes as JSON."""
    return to_text(to_json(outcomes), indent=2) + "\n"
