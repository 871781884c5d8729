"""The bootstrap over clusters of rows, and the test that swaps two models within clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from veneer.evaluation.statistics.measures import Floats
from veneer.evaluation.statistics.student import NORMAL, quantile

RESAMPLES = 4000
"""The number of bootstrap resamples for an interval, and of swaps for a p value."""
DRAWN_AT_ONCE = 500_000
FEWEST = 6
"""The number of clusters from which on all of them lie on one side of the truth in less than 5 % of cases (2 · 2⁻ⁿ)."""


def draws(clusters: int) -> Iterator[Floats]:
    """How often each resample contains each cluster, [resamples, clusters]. The draws are the same at every call, and
    come in pieces of a few MB whatever the number of clusters."""
    source = np.random.default_rng(0)
    piece = max(1, DRAWN_AT_ONCE // clusters)
    for start in range(0, RESAMPLES, piece):
        size = min(piece, RESAMPLES - start)
        drawn = source.integers(0, clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(float)


def resampled(counts: Floats) -> Floats:
    """The summed counts of every resample, [RESAMPLES, columns], from those of the clusters, [clusters, columns]."""
    return np.concatenate([held @ counts for held in draws(len(counts))])


def swapped(base: Floats, adapter: Floats) -> tuple[Floats, Floats]:
    """The summed counts of two models after each cluster's counts are swapped between them or not, at random.

    If the models do not differ, each such swap is as likely as the observed data (a randomisation test, Fisher, 1935).

    Args:
        base: the counts of the first model, [clusters, columns].
        adapter: the counts of the second model.

    Returns:
        The sums of both, each [RESAMPLES, columns].
    """
    source, change = np.random.default_rng(1), adapter - base
    piece = max(1, DRAWN_AT_ONCE // len(base))
    moved = np.concatenate(
        [
            source.integers(0, 2, size=(min(piece, RESAMPLES - start), len(base))).astype(float) @ change
            for start in range(0, RESAMPLES, piece)
        ]
    )
    return base.sum(0) + moved, adapter.sum(0) - moved


def swap_p(found: float, spread: Floats) -> float:
    """The two-sided p value of a difference, from the differences after swaps; swaps without a value are left out."""
    valid = spread[~np.isnan(spread)]
    # Differences that are equal up to rounding count as equal.
    as_far = int((np.abs(valid) >= abs(found) * (1 - 1e-9) - 1e-15).sum())
    return (1 + as_far) / (1 + len(valid))


def ends(spread: Floats, clusters: int) -> tuple[float, float]:
    """The 95 % interval of resampled values.

    Quantiles of the bootstrap are too narrow by √((n − 1) / n), and by using the normal distribution instead of
    Student's t. The expanded percentile interval (Hesterberg, The American Statistician 69, 2015, section 5.3) moves
    them out by that much: at 150 clusters from 2.5 and 97.5 % to 2.4 and 97.6 %. No resample lies beyond the outermost
    clusters. With fewer than FEWEST clusters that is too near, and the interval also reaches as far as Student's.
    Resamples of one cluster are all equal and say nothing about another one: the interval then has no ends. It has none
    either if no resample has a value (the difference of two perplexities that are infinite).

    Args:
        spread: the values of the resamples; NaN if a resample has no value.
        clusters: the number of clusters that were drawn from.
    """
    if clusters < 2 or np.isnan(spread).all():
        return -math.inf, math.inf
    wider = math.sqrt(clusters / (clusters - 1)) * quantile(0.975, clusters - 1)
    outside = NORMAL.cdf(-wider)
    if np.isinf(spread).any():
        # Nothing lies between a number and an infinite one: the ends are values of the spread themselves.
        valid = np.sort(spread[~np.isnan(spread)])
        place = math.floor(outside * (len(valid) - 1)) if clusters >= FEWEST else 0
        return float(valid[place]), float(valid[len(valid) - 1 - place])
    low, high = map(float, np.nanquantile(spread, [outside, 1 - outside]))
    if clusters < FEWEST:
        middle, half = float(np.nanmean(spread)), wider * float(np.nanstd(spread))
        low, high = min(low, middle - half), max(high, middle + half)
    return low, high
