"""The summary of runs of several methods and seeds: means over seeds with intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veneer.comparison.order import BASE, RunOutcome
from veneer.comparison.task import MeasuredRun
from veneer.evaluation.statistics.compare import Comparison, contrast_seeds
from veneer.evaluation.statistics.measures import SHARES, Measure
from veneer.evaluation.statistics.student import quantile
from veneer.html.charts import Series, points_chart


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over seeds, with the ends of its 95 % interval (Student's t), which a single run does not have."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """All runs of one method."""

    method: str
    seeds: list[int]
    trainable: int
    bytes_on_disk: int
    learning_rate: float
    steps: int
    peak_memory_mb: Figure
    seconds: Figure
    metrics: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of a method compared with the reference on the same rows, seed by seed.

    With several seeds the interval is over seeds and rows; with one seed it is over rows.
    """

    method: str
    reference: str
    values: Comparison


def figure(values: Sequence[float], *, share: bool = False) -> Figure:
    """The mean and 95 % interval of independent runs. For a share the interval ends at 0 and 1, bounds that Student's
    interval of few runs does not know."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Figure(mean)
    half = quantile(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    low, high = mean - half, mean + half
    return Figure(mean, max(low, 0.0), min(high, 1.0)) if share else Figure(mean, low, high)


def summarize(outcomes: Sequence[RunOutcome]) -> list[MethodSummary]:
    """One summary for each method, in the order of their first runs; measures that some runs lack are left out."""
    found = []
    for method in dict.fromkeys(one.method for one in outcomes):
        runs = [one for one in outcomes if one.method == method]
        names = [name for name in runs[0].metrics if all(name in one.metrics for one in runs)]
        found.append(
            MethodSummary(
                method=method,
                seeds=[one.seed for one in runs],
                trainable=runs[0].trainable,
                bytes_on_disk=runs[0].bytes_on_disk,
                learning_rate=runs[0].learning_rate,
                steps=runs[0].steps,
                peak_memory_mb=figure([one.peak_memory_mb for one in runs]),
                seconds=figure([one.seconds for one in runs]),
                metrics={name: figure([one.metrics[name] for one in runs], share=name in SHARES) for name in names},
            )
        )
    return found


def differences(runs: Sequence[MeasuredRun], primary: str | None = None) -> list[Difference]:
    """Every method compared with the first of `full`, `lora`, `qlora` that exists, and every run with a preference
    compared with the method that it continues from; measure by measure, over the seeds that both have. `primary` is
    the measure that was declared beforehand."""
    seeds: dict[str, dict[int, list[Measure]]] = {}
    for one in runs:
        seeds.setdefault(one.outcome.method, {})[one.outcome.seed] = one.measures
    methods = [method for method in ("full", "lora", "qlora") if method in seeds]
    compared: list[tuple[str, str]] = [(method, methods[0]) for method in methods[1:]]
    compared += [(name, name.partition("-")[0]) for name in seeds if "-" in name]
    found = []
    for method, reference in compared:
        first, second = seeds.get(reference, {}), seeds[method]
        shared = sorted(first.keys() & second.keys())
        if shared:
            rows = contrast_seeds([first[seed] for seed in shared], [second[seed] for seed in shared], primary)
            found += [Difference(method, reference, row) for row in rows if row.name != "perplexity"]
    return found


COSTS = {"memory": ("peak memory, MB", "peak_memory_mb"), "time": ("training time, s", "seconds")}
"""The costs that quality is drawn against: label, and field of a `RunOutcome`."""
LABELS = {"loss": "evaluation loss, nats per supervised token", "exact": "exact answers, %"}


def charts(outcomes: Sequence[RunOutcome]) -> dict[str, str]:
    """File name and SVG of each measure against each cost, with a dot for every run."""
    runs = trained(outcomes)
    drawn = {}
    for measure, label in LABELS.items():
        if not runs or not any(one.metrics.get(measure) for one in runs):
            continue
        for cost, (cost_label, value) in COSTS.items():
            unit = 100.0 if measure == "exact" else 1.0
            series = [
                Series(
                    method,
                    [(getattr(one, value), unit * one.metrics[measure]) for one in runs if one.method == method],
                )
                for method in dict.fromkeys(one.method for one in runs)
            ]
            title = f"{label.partition(',')[0].capitalize()} against {cost_label.partition(',')[0]}"
            drawn[f"{measure}-{cost}.svg"] = points_chart(title, cost_label, label, series)
    return drawn


def trained(outcomes: Sequence[RunOutcome]) -> list[RunOutcome]:
    """The runs in which something was trained."""
    return [one for one in outcomes if one.method != BASE]
