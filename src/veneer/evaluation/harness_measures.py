"""Measures from the scores of lm-evaluation-harness: each row's share of them, so that they have intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from veneer.evaluation.corpus_measures import CORPUS
from veneer.evaluation.metrics.base import expanded
from veneer.evaluation.statistics.measures import Measure, exp_quotient, lower_is_better, quotient, scale_of


def measures_of_samples(
    tasks: Sequence[Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Mapping[str, Mapping[str, Any]],
) -> tuple[list[Measure], list[str]]:
    """The measures of what the harness has scored, in the order in which the tasks name them.

    Args:
        tasks: the tasks of the harness.
        samples: the samples that `simple_evaluate` returns, by task.
        results: the values that it computed over all rows, by task.

    Returns:
        The measures, each with one row for each row of the tasks; and for measures without rows, a sentence with the
        harness's own value.
    """
    places: dict[tuple[str, int], int] = {}
    scores = _Scores(lambda name: _computed(results, tasks, name))
    for task in tasks:
        aggregations, upward = task.aggregation(), task.higher_is_better()
        for sample in samples[task.task_name]:
            place = places.setdefault((task.task_name, sample["doc_id"]), len(places))
            for metric in sample["metrics"]:
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                direction_known = upward.get(metric) is not False or lower_is_better(metric)
                scores.add(name, aggregations[metric].__name__, place, sample[metric], direction_known=direction_known)
    return scores.measures(len(places)), list(scores.left_out.values())


@dataclass(slots=True)
class _Scores:
    """The scores of rows, by the name of their measure."""

    computed: Callable[[str], str]
    """The harness's own values of a measure over all rows."""
    forms: dict[str, str] = field(default_factory=dict)
    """The harness's aggregation of each measure."""
    sums: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    """What each row adds to a measure, by the row's index."""
    items: dict[str, dict[int, Any]] = field(default_factory=dict)
    """What each row adds to a measure that is computed over all rows at once, by the row's index."""
    left_out: dict[str, str] = field(default_factory=dict)
    """A sentence about each measure that has no rows."""

    def add(self, name: str, form: str, place: int, value: Any, *, direction_known: bool) -> None:
        """Add the score of a row, or leave the measure out with the reason.

        Args:
            name: the name of the measure.
            form: the name of the function that the harness aggregates with.
            place: the index of the row.
            value: the score as the harness gives it.
            direction_known: whether it is known if higher or lower is better.
        """
        read = READERS.get(form)
        if form in CORPUS:
            self.items.setdefault(name, {})[place] = value
        elif read is None or not _readable(value, form):
            return self._leave_out(name, f"aggregated by {form}")
        elif not direction_known:
            return self._leave_out(name, "lower is better, and veneer does not know this measure")
        else:
            self.sums.setdefault(name, {})[place] = read(value)
        self.forms[name] = form
        return None

    def _leave_out(self, name: str, why: str) -> None:
        self.left_out.setdefault(name, f"{name}: {self.computed(name)} ({why})")

    def measures(self, count: int) -> list[Measure]:
        """The measures that have a score for each of the `count` rows; the others are left out."""
        found = []
        for name, form in self.forms.items():
            if name in self.left_out:
                continue
            if name in self.sums:
                found.append(_measure(name, form, self.sums[name], count))
            elif (counted := CORPUS[form](list(self.items[name].values()))) is not None:
                found.append(replace(expanded(counted, list(self.items[name]), count), name=name))
            else:
                self._leave_out(name, f"aggregated by {form}")
        return found


def _computed(results: Mapping[str, Mapping[str, Any]], tasks: Sequence[Any], name: str) -> str:
    """The harness's own value of each task over all rows."""
    key = name if "," in name else f"{name},none"
    values = [results.get(task.task_name, {}).get(key) for task in tasks]
    return ", ".join(f"{value:.4g}" for value in values if isinstance(value, int | float | np.number)) or "no number"


def _mean(value: Any) -> tuple[float, float]:
    return float(value), 1.0


def _weighted(value: Any) -> tuple[float, float]:
    return -float(value[0]), float(value[1])


def _bits(value: Any) -> tuple[float, float]:
    return -float(value[0]) / math.log(2), float(value[1])


def _no_nan(value: Any) -> tuple[float, float]:
    return (0.0, 0.0) if math.isnan(value) else (float(value), 1.0)


def _brier(value: Any) -> tuple[float, float]:
    right, shares = value
    return float(((np.asarray(shares) - (np.arange(len(shares)) == right)) ** 2).sum()), 1.0


READERS: dict[str, Callable[[Any], tuple[float, float]]] = {
    "mean": _mean,
    "nanmean": _no_nan,
    "brier_score": _brier,
    "perplexity": lambda value: (-float(value), 1.0),
    "weighted_perplexity": _weighted,
    "bits_per_byte": _bits,
}
"""What a row adds to a measure (a sum and its weight), by the name of the harness's aggregation function."""


EXPONENTIALS = ("perplexity", "weighted_perplexity")


def _readable(value: Any, form: str) -> bool:
    if form in ("weighted_perplexity", "bits_per_byte", "brier_score"):
        return isinstance(value, tuple | list) and len(value) == 2
    return isinstance(value, int | float | np.number)


def _measure(name: str, form: str, rows: Mapping[int, tuple[float, float]], count: int) -> Measure:
    counts = np.zeros((count, 2))
    for place, sums in rows.items():
        counts[place] = sums
    value = exp_quotient if form in EXPONENTIALS else quotient
    numbers = counts[counts[:, 1] > 0, 0]
    return Measure(name, counts, value, scale_of(numbers.tolist()) if form == "mean" else None)
