"""The outcomes of a sweep's points, as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from veneer.html.charts import Series, line_chart
from veneer.sweeps.outcome import PointState, SweepOutcome
from veneer.training.evaluations.best import LOSS


def chart(outcomes: Sequence[SweepOutcome], loss_unit: str) -> str:
    """The value by which points are compared, over the setting with the most numeric values.

    Every combination of the other settings has its own line.

    Args:
        outcomes: the outcomes of the points.
        loss_unit: the unit that the losses of all points have; empty if there is none.
    """
    key = _axis(outcomes)
    values = [one.settings[key] for one in outcomes] if key is not None else []
    by_decades = bool(values) and min(values) > 0 and max(values) / min(values) >= 10
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, one in enumerate(outcomes, start=1):
        if one.judged is None or not math.isfinite(one.judged) or one.state is PointState.DIVERGED:
            continue
        x = float(number) if key is None else float(one.settings[key])
        others = ", ".join(f"{name.rpartition('.')[2]}={v}" for name, v in one.settings.items() if name != key)
        lines.setdefault(others if key is not None else "points", []).append(
            (math.log10(x) if by_decades else x, one.judged)
        )
    label, unit = _compared(outcomes, loss_unit)
    x_label = "point" if key is None else f"log10 of {key}" if by_decades else key
    series = [Series(name or label, sorted(found), marked=True) for name, found in lines.items()]
    return line_chart("Sweep", x_label, f"{label}{unit}", series)


def _compared(outcomes: Sequence[SweepOutcome], loss_unit: str) -> tuple[str, str]:
    """The chart's name of the value by which points are compared, and its unit."""
    by = outcomes[0].best_by if outcomes else LOSS
    if by != LOSS:
        return f"best {by}", ""
    evaluated = any(one.final_loss is not None for one in outcomes)
    return "best evaluation loss" if evaluated else "training loss", f", {loss_unit}" if loss_unit else ""


def _axis(outcomes: Sequence[SweepOutcome]) -> str | None:
    counts: dict[str, int] = {}
    for key in outcomes[0].settings if outcomes else ():
        values = [one.settings[key] for one in outcomes]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            counts[key] = len(set(values))
    return max(counts, key=lambda key: counts[key]) if counts else None
