"""Curves of a run, thinned to as many points as are visible, without hiding a spike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from veneer.run_records.log import COLUMNS, RunLog

MOST_POINTS = 2_000


class Along(StrEnum):
    """The quantity on the x axis of a curve."""

    STEP = "step"
    TOKENS = "tokens"
    """Tokens trained so far."""
    TIME = "time"
    """Seconds of training so far, without pauses."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve, in order of x."""

    x: list[float]
    y: list[float | None]
    """The values; None for one that is not finite."""


def curve_of(log: RunLog, name: str, *, along: Along = Along.STEP, most: int = MOST_POINTS) -> Curve:
    """The curve of a column of a run's log.

    Args:
        log: the log of the run.
        name: a column of `COLUMNS`, `tokens_per_second`, `evaluation`, or a metric of the objective.
        along: the quantity on the x axis.
        most: the largest number of points.

    Raises:
        KeyError: there is no such column.
    """
    steps = np.array(log.steps, dtype=np.float64)
    places = {
        Along.STEP: steps,
        Along.TOKENS: np.cumsum(_column(log, "tokens")),
        Along.TIME: np.cumsum(_column(log, "seconds")),
    }[along]
    if name == "evaluation":
        made = np.array([one.step for one in log.evaluations], dtype=np.float64)
        values = np.array([one.loss for one in log.evaluations], dtype=np.float64)
        x = np.interp(made, steps, places) if along is not Along.STEP and len(steps) else made
        return _curve(x, values, most)
    return _curve(places, _column(log, name), most)


def _column(log: RunLog, name: str) -> NDArray[np.float64]:
    if name == "tokens_per_second":
        return _column(log, "tokens") / np.maximum(_column(log, "seconds"), 1e-9)
    if name in log.metrics:
        return np.array(log.metrics[name], dtype=np.float64)
    if name not in COLUMNS:
        raise KeyError(name)
    return np.array(log.columns[name], dtype=np.float64)


def _curve(x: NDArray[np.float64], y: NDArray[np.float64], most: int) -> Curve:
    kept = thinned(y, most)
    return Curve(x[kept].tolist(), [value if np.isfinite(value) else None for value in y[kept].tolist()])


def thinned(values: Sequence[float] | NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """The places of at most `most` values that keep a curve's look: the lowest and the highest of every stretch, one
    that is not finite if there is any, and the first and the last value.

    Args:
        values: the values along the curve.
        most: the largest number of places, at least 8.
    """
    y = np.asarray(values, dtype=np.float64)
    if len(y) <= most:
        return np.arange(len(y))
    stretches = max(1, (most - 2) // 3)
    edges = np.linspace(0, len(y), stretches + 1).astype(np.int64)
    kept = {0, len(y) - 1}
    for begin, end in pairwise(edges.tolist()):
        part = y[begin:end]
        broken = ~np.isfinite(part)
        if broken.any():
            kept.add(begin + int(np.argmax(broken)))
        if not broken.all():
            kept.add(begin + int(np.argmin(np.where(broken, np.inf, part))))
            kept.add(begin + int(np.argmax(np.where(broken, -np.inf, part))))
    return np.array(sorted(kept), dtype=np.int64)
