"""What the points of a sweep came to, read from their folders, as a table and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.charts import Series, line_chart
from veneer.events import by_step
from veneer.run_folder import RunFolder
from veneer.strict_json import to_text, with_reasons
from veneer.sweeps.grid import Point

RECENT = 0.1
"""Share of the steps at the end whose mean is a run's training loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """One point."""

    name: str
    settings: Mapping[str, Any]
    state: str
    """`complete`, `diverged`, `interrupted`, or `waiting` where nothing was trained."""
    steps: int = 0
    seconds: float = 0.0
    """Seconds that its steps took. Of a pass that several runs share, its part is counted."""
    train_loss: float | None = None
    """The mean loss over the last tenth of its steps, in nats per supervised token."""
    final_loss: float | None = None
    """The loss of the last evaluation."""
    best_loss: float | None = None
    """The lowest evaluation loss."""
    best_step: int | None = None

    @property
    def judged(self) -> float | None:
        """What points are compared by: the best evaluation loss, or the training loss where nothing is evaluated."""
        return self.train_loss if self.best_loss is None else self.best_loss

    @property
    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.state in ("complete", "diverged")


def read_outcome(point: Point) -> SweepOutcome:
    """What a point's folder holds."""
    folder = RunFolder(Path(point.config.output))
    events = folder.events()
    losses, evaluations = by_step(events, "StepDone", "loss"), by_step(events, "Evaluated", "loss")
    state = "waiting"
    for event in events:
        if event.get("event") == "RunStarted":
            state = "interrupted"
        elif event.get("event") == "RunFinished":
            state = str(event["reason"])
    if state == "complete" and not folder.summary_file.is_file():
        state = "interrupted"  # ended before its files were published
    recent = list(losses.values())[-max(1, int(RECENT * len(losses))) :]
    best = min(evaluations, key=lambda step: (evaluations[step], step)) if evaluations else None
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
    )


def best_of(outcomes: Sequence[SweepOutcome]) -> SweepOutcome | None:
    """The finished point with the lowest loss."""
    judged = [(one.judged, one) for one in outcomes if one.state == "complete" and one.judged is not None]
    return min(judged, key=lambda pair: pair[0])[1] if judged else None


def chart(outcomes: Sequence[SweepOutcome]) -> str:
    """The loss over the setting with the most values that are numbers, a line for every other combination."""
    key = _axis(outcomes)
    values = [one.settings[key] for one in outcomes] if key is not None else []
    by_decades = bool(values) and min(values) > 0 and max(values) / min(values) >= 10
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, one in enumerate(outcomes, start=1):
        if one.judged is None or not math.isfinite(one.judged) or one.state == "diverged":
            continue
        x = float(number) if key is None else float(one.settings[key])
        others = ", ".join(f"{name.rpartition('.')[2]}={v}" for name, v in one.settings.items() if name != key)
        lines.setdefault(others if key is not None else "points", []).append(
            (math.log10(x) if by_decades else x, one.judged)
        )
    evaluated = any(one.best_loss is not None for one in outcomes)
    label = "best evaluation loss" if evaluated else "training loss"
    x_label = "point" if key is None else f"log10 of {key}" if by_decades else key
    series = [Series(name or label, sorted(found), marked=True) for name, found in lines.items()]
    return line_chart("Sweep", x_label, f"{label}, nats per supervised token", series)


def _axis(outcomes: Sequence[SweepOutcome]) -> str | None:
    counts: dict[str, int] = {}
    for key in outcomes[0].settings if outcomes else ():
        values = [one.settings[key] for one in outcomes]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            counts[key] = len(set(values))
    return max(counts, key=lambda key: counts[key]) if counts else None


def to_json(outcomes: Sequence[SweepOutcome]) -> list[dict[str, Any]]:
    """The outcomes as plain values."""
    return [
        with_reasons(
            {
                "name": one.name,
                "settings": dict(one.settings),
                "state": one.state,
                "steps": one.steps,
                "seconds": one.seconds,
                "train_loss": one.train_loss,
                "final_loss": one.final_loss,
                "best_loss": one.best_loss,
                "best_step": one.best_step,
            }
        )
        for one in outcomes
    ]


def dumped(outcomes: Sequence[SweepOutcome]) -> str:
    """The outcomes as JSON."""
    return to_text(to_json(outcomes), indent=2) + "\n"
