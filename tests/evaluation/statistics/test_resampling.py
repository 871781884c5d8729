from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from veneer.evaluation.statistics import resampling
from veneer.evaluation.statistics.measures import quotient
from veneer.evaluation.statistics.resampling import RESAMPLES, draws, ends, resampled, swap_p, swapped
from veneer.evaluation.statistics.student import NORMAL, quantile


def test_every_resample_holds_as_many_clusters_as_there_are() -> None:
    held = np.concatenate(list(draws(7)))
    assert held.shape == (RESAMPLES, 7)
    assert np.all(held.sum(1) == 7)
    assert np.array_equal(held, np.concatenate(list(draws(7))))
    # A cluster is held once on average, and with the variance of a multinomial draw.
    assert np.allclose(held.mean(0), 1.0, atol=0.06)
    assert np.allclose(held.var(0), 6 / 7, atol=0.1)


def test_pieces_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "DRAWN_AT_ONCE", 64)
    pieces = list(draws(7))
    assert sum(map(len, pieces)) == RESAMPLES
    assert max(map(len, pieces)) == 9


def test_resampled_sums_are_those_of_an_obvious_loop() -> None:
    counts = np.random.default_rng(0).random((9, 3))
    held = np.concatenate(list(draws(9)))
    found = resampled(counts)
    for row in range(0, RESAMPLES, 397):
        slow = sum(int(times) * counts[i] for i, times in enumerate(held[row]))
        assert np.allclose(found[row], slow)


def test_swaps_keep_the_sum_of_both_models_and_meet_every_pattern() -> None:
    base, adapter = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [0.0], [0.0]])
    left, right = swapped(base, adapter)
    assert np.allclose(left + right, 7.0)
    assert {float(value) for value in left[:, 0]} == {float(sum(s)) for s in itertools.product((0, 1), (0, 2), (0, 4))}


def test_the_p_of_swaps_is_about_that_of_all_swaps() -> None:
    source = np.random.default_rng(3)
    base, adapter = source.normal(size=(10, 1)), source.normal(0.5, size=(10, 1))
    base, adapter = (np.hstack([one, np.ones((10, 1))]) for one in (base, adapter))
    found = float(quotient(adapter.sum(0)) - quotient(base.sum(0)))
    change = (adapter - base)[:, 0]
    every = [
        abs(sum(s * c for s, c in zip(signs, change, strict=True))) / 10
        for signs in itertools.product((1, -1), repeat=10)
    ]
    exact = float(np.mean([value >= abs(found) - 1e-12 for value in every]))
    left, right = swapped(base, adapter)
    assert swap_p(found, quotient(right) - quotient(left)) == pytest.approx(exact, abs=0.03)


def test_the_ends_are_moved_out_as_the_paper_says() -> None:
    spread = np.random.default_rng(4).normal(size=4_000)
    for clusters in (6, 10, 150):
        level = NORMAL.cdf(-math.sqrt(clusters / (clusters - 1)) * quantile(0.975, clusters - 1))
        assert level < 0.025
        assert ends(spread, clusters) == tuple(np.quantile(spread, [level, 1 - level]))
    assert ends(np.array([1.0, np.nan, 1.0]), 2) == (1.0, 1.0)
    # All resamples of one cluster are that cluster, which tells nothing of another.
    assert ends(np.ones(5), 1) == (-math.inf, math.inf)


def coverage(rows: int, runs: int, seed: int, *, size: int = 1) -> float:
    """How often the interval holds the true mean of skewed values that come in clusters."""
    source, hits = np.random.default_rng(seed), 0
    held = np.concatenate(list(draws(rows)))
    for _ in range(runs):
        shared = source.gamma(2.0, size=rows)
        values = shared * size + source.normal(size=(rows, size)).sum(1) * 0.3
        low, high = ends(held @ values / (rows * size), rows)
        hits += low <= 2.0 <= high
    return hits / runs


def test_the_interval_covers_as_it_says() -> None:
    assert np.mean([coverage(rows, 150, rows) for rows in (30, 60)]) >= 0.93


@pytest.mark.parametrize("clusters", [2, 3, 4, 5])
def test_few_rows_that_all_lie_on_one_side_decide_nothing_by_that_alone(clusters: int) -> None:
    source, held, better, hits = np.random.default_rng(clusters), np.concatenate(list(draws(clusters))), 0, 0
    for _ in range(400):
        low, high = ends(held @ source.normal(size=clusters) / clusters, clusters)
        better, hits = better + (high < 0), hits + (low <= 0 <= high)
    assert hits >= 0.93 * 400
    assert better <= 0.045 * 400


@pytest.mark.slow
def test_the_interval_covers_as_it_says_in_many_simulations() -> None:
    found = [coverage(rows, 2_000, rows + size, size=size) for rows in (30, 60, 120, 250) for size in (1, 4)]
    assert np.mean(found) >= 0.94
    assert min(found) >= 0.925
