"""The measures of one model with their intervals, and the paired differences of two models with theirs.

A share of rows has Wilson's interval, and the difference of two shares on the same rows has Tango's. Everything else,
and all rows that come in clusters, has the interval of a bootstrap over clusters. Several adapters have Student's
interval over seeds and rows. Rows that are all equal say nothing about the spread of other rows: on a scale, they get
the interval of a share of that scale. One row or cluster of a measure without a scale (a loss) has an interval without
ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from veneer.errors import DataError
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics.measures import (
    Floats,
    Measure,
    Scale,
    exp_quotient,
    lower_is_better,
    mean_of,
    quotient,
    ratio,
    scale_of_all,
)
from veneer.evaluation.statistics.resampling import ends, resampled, swap_p, swapped
from veneer.evaluation.statistics.seeds import ROUNDING, seeds_by_rows
from veneer.evaluation.statistics.shares import mcnemar, tango, wilson
from veneer.evaluation.statistics.significance import holm

BOOTSTRAP = "bootstrap over rows"
CLUSTER_BOOTSTRAP = "bootstrap over clusters"
SEEDS = "Student over seeds × rows"
RESCALED = ("perplexity", "bits_per_byte")
"""Measures that express the loss in other units."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure of one model, with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    interval: str = field(default=BOOTSTRAP, repr=False)
    """The name of the interval."""


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
    interval: str = field(default=BOOTSTRAP, repr=False)
    """The name of the interval."""
    p: float | None = None
    """The two-sided p value of no difference; None if it was not tested."""
    holm: float | None = None
    """The p value, adjusted by Holm's method over all measures but the primary one; None for the primary one."""
    ratio: tuple[float, float, float] | None = field(default=None, repr=False)
    """Adapter / base of a perplexity, and the ends of its 95 % interval, which comes from the difference of the
    logarithms; None for other measures."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is better."""
        return lower_is_better(self.name)

    @property
    def gain(self) -> tuple[float, float, float]:
        """How much better the adapter is, and the ends of the interval; above 0 is better for every measure."""
        if self.lower_is_better:
            return -self.difference, -self.high, -self.low
        return self.difference, self.low, self.high


def compare(
    base: Sequence[RowScore], adapter: Sequence[RowScore], clusters: NDArray[np.int64] | None = None
) -> list[Comparison]:
    """Every measure of two models on the same rows, with the interval of the paired difference.

    Raises:
        DataError: the two lists are not about the same rows.
    """
    if len(base) != len(adapter) or not base:
        raise DataError(
            f"{len(base)} rows scored with the base and {len(adapter)} with the adapter; compare the same rows"
        )
    return contrast(measures_of(base), [measures_of(adapter)], clusters)


def measures_of(scores: Sequence[RowScore]) -> list[Measure]:
    """The measures of rows' scores, in the order of the tables."""
    loss, tokens = [s.loss_sum for s in scores], [float(s.supervised) for s in scores]
    found = [mean_of("exact", [s.exact for s in scores]), mean_of("fields", [s.fields for s in scores])]
    # Without any supervised token there is no loss: 0 / 0 is not "0 nats".
    if any(tokens):
        found += [ratio("loss", loss, tokens), replace(ratio("perplexity", loss, tokens), value=exp_quotient)]
    if all(s.bytes for s in scores if s.supervised) and any(s.bytes for s in scores):
        bits = [value / float(np.log(2)) for value in loss]
        found.append(ratio("bits_per_byte", bits, [float(s.bytes) for s in scores]))
    return [one for one in found if one is not None]


def describe(measures: Sequence[Measure], clusters: NDArray[np.int64] | None = None) -> list[Metric]:
    """Measures of one model, with their intervals.

    Args:
        measures: the measures, all on the same rows.
        clusters: the cluster index of each row, [rows], from 0; None makes each row its own cluster.
    """
    rows = _clustered(measures, clusters)
    with _infinite_values():
        spread = _spread([rows])[0]
        return [_described(one, spread[one.name], clusters is not None) for one in rows]


def _infinite_values() -> np.errstate:
    """Allow infinite values: a perplexity is infinite above a loss of 709 nats, and two such have no difference."""
    return np.errstate(over="ignore", invalid="ignore")


def _described(measure: Measure, spread: Floats, in_clusters: bool) -> Metric:
    value, count, counting = measure.total, _rows_of(measure), int(measure.counting.sum())
    if measure.value is exp_quotient:
        # A perplexity has the interval of its loss: with few rows, its own would reach below 0.
        low, high = map(float, np.exp(ends(np.log(spread), counting)))
    else:
        low, high = ends(spread, counting)
    if measure.scale is not None:
        least, most = measure.scale
        width = most - least
        # Equal rows leave the doubt about rows that were not drawn.
        if (measure.binary and not in_clusters) or _no_spread(low, high, measure.scale):
            right = measure.right.sum() if measure.binary else (value - least) / width * count
            low, high = (least + width * float(end) for end in wilson(right, count))
            return Metric(measure.name, value, low, high, "Wilson")
        low, high = max(low, least), min(high, most)
    return Metric(measure.name, value, low, high, CLUSTER_BOOTSTRAP if in_clusters else BOOTSTRAP)


def contrast(
    base: Sequence[Measure],
    adapters: Sequence[Sequence[Measure]],
    clusters: NDArray[np.int64] | None = None,
    primary: str | None = None,
) -> list[Comparison]:
    """Every measure that base and all adapters have, with the interval of the mean difference.

    Args:
        base: the measures of the base.
        adapters: the measures of each adapter, on the same rows.
        clusters: the cluster index of each row, [rows], from 0; None makes each row its own cluster.
        primary: the measure that was declared beforehand. The p values of the others are adjusted together (Holm).
            None takes the first one.
    """
    left = _clustered(base, clusters)
    right = [_clustered(measures, clusters) for measures in adapters]
    named = [{one.name: one for one in measures} for measures in right]
    shared = [one for one in left if all(one.name in measures for measures in named)]
    with _infinite_values():
        if len(right) > 1:
            found = [_over_seeds([one] * len(named), [measures[one.name] for measures in named]) for one in shared]
        else:
            pairs = [(one, named[0][one.name]) for one in shared]
            spreads, swaps = _spread([left, *right]), _after_swaps(pairs)
            found = [
                _pair(one, other, (spreads[0][one.name], spreads[1][one.name]), swaps[one.name], clusters is not None)
                for one, other in pairs
            ]
    return adjusted(found, primary)


def contrast_seeds(
    references: Sequence[Sequence[Measure]], others: Sequence[Sequence[Measure]], primary: str | None = None
) -> list[Comparison]:
    """Every measure that two ways of training share, seed by seed, with the interval of the mean difference over seeds
    and rows; with one seed, the result of `contrast`.

    Args:
        references: the measures of each seed of one way of training.
        others: the measures of the same seeds of the other way, on the same rows.
        primary: as for `contrast`.
    """
    if len(references) == 1:
        return contrast(references[0], others, primary=primary)
    runs = [{one.name: one for one in measures} for measures in (*references, *others)]
    names = [one.name for one in references[0] if all(one.name in run for run in runs)]
    first, second = runs[: len(references)], runs[len(references) :]
    with _infinite_values():
        found = [_over_seeds([run[name] for run in first], [run[name] for run in second]) for name in names]
    return adjusted(found, primary)


def adjusted(found: Sequence[Comparison], primary: str | None) -> list[Comparison]:
    """Comparisons with the p values of all but the primary measure adjusted by Holm's method. Perplexity and bits only
    rescale the loss: they do not count as measures of their own, and have its adjusted p. If one of the three is
    primary, none of them has an adjusted p."""
    first = primary or (found[0].name if found else None)
    untested = (first, "loss", *RESCALED) if first in RESCALED else (first, *RESCALED)
    tested = [one for one in found if one.name not in untested and one.p is not None]
    values = holm([one.p for one in tested if one.p is not None])
    by_name = {one.name: value for one, value in zip(tested, values, strict=True)}
    if "loss" in by_name:
        rescaled = {one.name for one in found if one.name in RESCALED and one.name != first and one.p is not None}
        by_name |= dict.fromkeys(rescaled, by_name["loss"])
    return [replace(one, holm=by_name.get(one.name)) for one in found]


def _pair(
    base: Measure, adapter: Measure, spreads: tuple[Floats, Floats], swaps: Floats, in_clusters: bool
) -> Comparison:
    values = base.total, adapter.total
    difference, scale = values[1] - values[0], scale_of_all([base, adapter])
    base, adapter = replace(base, scale=scale), replace(adapter, scale=scale)
    binary = base.binary and adapter.binary and np.array_equal(base.counts[:, 1], adapter.counts[:, 1])
    if scale is not None and binary and not in_clusters:
        gained, lost = int((adapter.right & ~base.right).sum()), int((base.right & ~adapter.right).sum())
        low, high = (_width(scale) * float(end) for end in tango(gained, lost, _rows_of(base)))
        return Comparison(base.name, *values, difference, low, high, "Tango", mcnemar(gained, lost))
    spread, counting = spreads[1] - spreads[0], int((base.counting | adapter.counting).sum())
    low, high = ends(spread, counting)
    interval = CLUSTER_BOOTSTRAP if in_clusters else BOOTSTRAP
    if scale is not None and _no_spread(low, high, scale):
        low, high = _equal_rows(difference, _rows_of(base), scale)
        interval = "Tango"
    elif scale is not None:
        low, high = max(low, -_width(scale)), min(high, _width(scale))
    found = Comparison(base.name, *values, difference, low, high, interval, swap_p(difference, swaps))
    if base.value is exp_quotient:
        bounds = ends(np.log(spreads[1]) - np.log(spreads[0]), counting)
        found = replace(found, ratio=(values[1] / values[0], float(np.exp(bounds[0])), float(np.exp(bounds[1]))))
    return found


def _over_seeds(bases: Sequence[Measure], adapters: Sequence[Measure]) -> Comparison:
    found, base = seeds_by_rows(bases, adapters), bases[0]
    means = [float(np.mean([one.total for one in models])) for models in (bases, adapters)]
    low, high, interval = found.low, found.high, SEEDS
    scale = scale_of_all([*bases, *adapters])
    if scale is not None:
        # No two values differ by more than the width of the scale, a bound that Student's interval does not know.
        low, high = max(low, -_width(scale)), min(high, _width(scale))
        if _no_spread(low, high, scale):
            low, high = _equal_rows(found.difference, _rows_of(base), scale)
            interval = "Tango"
    result = Comparison(base.name, means[0], means[1], found.difference, low, high, interval, found.p)
    if base.value is exp_quotient:
        logs = seeds_by_rows(*([replace(one, value=quotient) for one in models] for models in (bases, adapters)))
        bounds = np.exp([logs.difference, logs.low, logs.high])
        result = replace(result, ratio=(float(bounds[0]), float(bounds[1]), float(bounds[2])))
    return result


def _width(scale: Scale) -> float:
    return scale[1] - scale[0]


def _no_spread(low: float, high: float, scale: Scale) -> bool:
    """Whether the rows do not show how far a measure on a scale spreads: they are equal up to rounding, or there is
    only one."""
    return high - low <= ROUNDING * _width(scale) or not np.isfinite([low, high]).any()


def _equal_rows(difference: float, count: float, scale: Scale) -> tuple[float, float]:
    """The interval of a difference that is equal on all rows: the doubt is about rows that were not drawn."""
    share = difference / _width(scale)
    low, high = tango(max(share, 0.0) * count, max(-share, 0.0) * count, count)
    return _width(scale) * float(low), _width(scale) * float(high)


def _rows_of(measure: Measure) -> float:
    """The number of rows that count, at least one; with clusters, the number of clusters."""
    return float(max(1, int(measure.counting.sum())))


def _clustered(measures: Sequence[Measure], clusters: NDArray[np.int64] | None) -> list[Measure]:
    return list(measures) if clusters is None else [one.clustered(clusters) for one in measures]


def _spread(models: Sequence[Sequence[Measure]]) -> list[Mapping[str, Floats]]:
    """Every measure in every resample, by model. All models are resampled with the same rows, so that a row that is
    hard for two models does not widen the interval of their difference (a paired bootstrap, Efron & Tibshirani, 1993,
    ch. 8)."""
    flat = [one for measures in models for one in measures]
    if not flat:
        return [{} for _ in models]
    sums = resampled(np.concatenate([one.counts for one in flat], axis=1))
    borders = np.cumsum([0, *(one.counts.shape[1] for one in flat)])
    values = iter([one.value(sums[:, borders[i] : borders[i + 1]]) for i, one in enumerate(flat)])
    return [{one.name: next(values) for one in measures} for measures in models]


def _after_swaps(pairs: Sequence[tuple[Measure, Measure]]) -> Mapping[str, Floats]:
    """The difference of every measure of base and adapter after each swap; all measures are swapped together."""
    if not pairs:
        return {}
    base, adapter = swapped(
        np.concatenate([one.counts for one, _ in pairs], axis=1),
        np.concatenate([other.counts for _, other in pairs], axis=1),
    )
    borders = pairwise(np.cumsum([0, *(one.counts.shape[1] for one, _ in pairs)]))
    return {
        one.name: other.value(adapter[:, start:end]) - one.value(base[:, start:end])
        for (one, other), (start, end) in zip(pairs, borders, strict=True)
    }
