"""Is it better? Means over rows, and confidence intervals of the paired difference of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veneer.errors import DataError
from veneer.evaluation.scoring import RowScore

RESAMPLES = 4000
"""Bootstrap resamples behind a confidence interval."""
DRAWN_AT_ONCE = 500_000


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure of one model, or of the difference of two, with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure for base and adapter on the same rows."""

    name: str
    base: float
    adapter: float
    difference: float
    low: float
    high: float
    """Ends of the 95 % confidence interval of the difference."""


def metrics(scores: Sequence[RowScore]) -> list[Metric]:
    """The measures of one model, with bootstrap intervals."""
    return [
        Metric(name, *_interval(numerator, weight, _TRANSFORM[name]))
        for name, (numerator, weight) in _columns(scores).items()
    ]


def compare(base: Sequence[RowScore], adapter: Sequence[RowScore]) -> list[Comparison]:
    """Every measure of two models on the same rows, with the interval of the paired difference.

    The rows are resampled together for both models (a paired bootstrap, Efron & Tibshirani, 1993, ch. 8), so that a
    row that is hard for both does not widen the interval.

    Raises:
        DataError: the two lists are not of the same rows.
    """
    if len(base) != len(adapter) or not base:
        raise DataError(
            f"{len(base)} rows scored with the base and {len(adapter)} with the adapter; compare equal rows"
        )
    left, right = _columns(base), _columns(adapter)
    results = []
    for name in left.keys() & right.keys():
        transform = _TRANSFORM[name]
        values = [transform(_ratio(*column)) for column in (left[name], right[name])]
        spread = transform(_resampled(*right[name])) - transform(_resampled(*left[name]))
        low, high = np.nanquantile(spread, [0.025, 0.975])
        results.append(
            Comparison(name, float(values[0]), float(values[1]), float(values[1] - values[0]), float(low), float(high))
        )
    return sorted(results, key=lambda one: list(_TRANSFORM).index(one.name))


Floats = NDArray[np.float64]

_TRANSFORM: dict[str, Callable[[Floats], Floats]] = {
    "exact": lambda mean: mean,
    "fields": lambda mean: mean,
    "loss": lambda mean: mean,
    "perplexity": np.exp,
}
"""The measures in the order of the tables, each a function of a weighted mean over rows."""


def _columns(scores: Sequence[RowScore]) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and weight of every row, by measure; measures that no row has are left out."""
    loss = np.array([s.loss_sum for s in scores])
    tokens = np.array([s.supervised for s in scores], dtype=float)
    # Without any supervised token there is no loss: 0 / 0 is not "0 nats".
    columns = {"loss": (loss, tokens), "perplexity": (loss, tokens)} if tokens.any() else {}
    for name, values in (("exact", [s.exact for s in scores]), ("fields", [s.fields for s in scores])):
        present = np.array([value is not None for value in values], dtype=float)
        if present.any():
            columns[name] = (np.array([float(value or 0.0) for value in values]), present)
    return {name: columns[name] for name in _TRANSFORM if name in columns}


def _ratio(numerator: Floats, weight: Floats) -> Floats:
    return np.asarray(numerator.sum() / weight.sum())


def _draws(rows: int) -> Iterator[NDArray[np.int64]]:
    """The resamples' row numbers, the same at every call, in pieces of a few MB whatever the number of rows."""
    source = np.random.default_rng(0)
    piece = max(1, DRAWN_AT_ONCE // rows)
    for start in range(0, RESAMPLES, piece):
        yield source.integers(0, rows, size=(min(piece, RESAMPLES - start), rows))


def _resampled(numerator: Floats, weight: Floats) -> Floats:
    """The ratio in every resample; NaN where a resample holds no weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pieces = [numerator[draws].sum(1) / weight[draws].sum(1) for draws in _draws(len(numerator))]
    return np.concatenate(pieces)


def _interval(numerator: Floats, weight: Floats, transform: Callable[[Floats], Floats]) -> tuple[float, float, float]:
    spread = transform(_resampled(numerator, weight))
    low, high = np.nanquantile(spread, [0.025, 0.975])
    value = float(transform(_ratio(numerator, weight)))
    return value, float(low), float(high)
