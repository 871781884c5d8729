from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from veneer.evaluation.statistics.shares import mcnemar, tango, wilson
from veneer.evaluation.statistics.student import Z95


def scan(kept: np.ndarray, grid: np.ndarray) -> tuple[float, float]:
    inside = grid[kept]
    return float(inside.min()), float(inside.max())


@pytest.mark.parametrize(("right", "rows"), [(0, 150), (150, 150), (3, 10), (57, 200), (1, 1)])
def test_wilsons_interval_holds_the_shares_that_a_score_test_does_not_refuse(right: int, rows: int) -> None:
    grid = np.linspace(1e-6, 1 - 1e-6, 200_001)
    gap = np.abs(right / rows - grid) / np.sqrt(grid * (1 - grid) / rows)
    low, high = wilson(right, rows)
    assert (float(low), float(high)) == pytest.approx(scan(gap <= Z95, grid), abs=2e-5)


def test_wilsons_interval_has_the_ends_of_the_literature() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263, 15 of 148, 0 of 20.
    for right, rows, ends in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611))):
        assert tuple(map(float, wilson(right, rows))) == pytest.approx(ends, abs=6e-5)


def likeliest(b: int, c: int, n: int, difference: float) -> float:
    """The probability of `c` under a difference that makes the counts likeliest, by looking at very many."""
    lowest = max(0.0, -difference)
    grid = np.linspace(lowest + 1e-9, (1 - difference) / 2 - 1e-9, 8_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (n - b - c) * np.log(1 - 2 * grid - difference)
        value += np.where(b, b * np.log(grid + difference), 0.0) + np.where(c, c * np.log(grid), 0.0)
    return float(grid[np.nanargmax(value)])


@pytest.mark.parametrize(("b", "c", "n"), [(7, 3, 40), (0, 5, 60), (12, 12, 100), (20, 1, 25), (0, 0, 30)])
def test_tangos_interval_holds_the_differences_that_a_score_test_does_not_refuse(b: int, c: int, n: int) -> None:
    grid = np.linspace(-0.998, 0.998, 999)
    kept = []
    for difference in grid:
        q = likeliest(b, c, n, float(difference))
        variance = n * (2 * q + difference - difference**2)
        kept.append(abs(b - c - n * difference) <= Z95 * math.sqrt(max(variance, 1e-12)))
    low, high = tango(b, c, n)
    assert (float(low), float(high)) == pytest.approx(scan(np.array(kept), grid), abs=3e-3)


def test_tangos_interval_turns_with_the_models() -> None:
    low, high = tango(9, 2, 70)
    assert tuple(map(float, tango(2, 9, 70))) == pytest.approx((-float(high), -float(low)), abs=1e-12)


def test_wilsons_interval_holds_the_share_of_rows_that_are_all_alike() -> None:
    for rows in range(1, 400):
        assert float(wilson(rows, rows)[1]) == 1.0
        assert float(wilson(0, rows)[0]) == 0.0


def test_no_interval_has_width_zero() -> None:
    low, high = tango(np.array([0, 30, 0]), np.array([0, 0, 30]), 30)
    assert np.all(high - low > 0.05)
    assert np.all((low >= -1) & (high <= 1))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (6, 0), (9, 3), (10, 10), (1, 12)])
def test_mcnemars_p_counts_the_coins_that_fall_as_far_apart(gained: int, lost: int) -> None:
    total = gained + lost
    as_far = sum(abs(2 * sum(coins) - total) >= abs(gained - lost) for coins in itertools.product((0, 1), repeat=total))
    assert mcnemar(gained, lost) == pytest.approx(as_far / 2**total, rel=1e-9)


def test_fewer_than_six_rows_that_differ_prove_nothing() -> None:
    assert mcnemar(5, 0) > 0.05 > mcnemar(6, 0)


SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.95)
ROWS = (30, 50, 100, 200, 500)


def coverage_of_wilson(share: float, rows: int) -> float:
    """The exact probability that the interval holds the truth: a sum over all outcomes."""
    right = np.arange(rows + 1)
    logs = np.array([math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in right])
    weights = np.exp(logs + right * math.log(share) + (rows - right) * math.log(1 - share))
    low, high = wilson(right, rows)
    return float(weights[(low <= share) & (share <= high)].sum())


def test_wilsons_interval_covers_as_it_says() -> None:
    found = [coverage_of_wilson(share, rows) for share in SHARES for rows in ROWS]
    assert np.mean(found) >= 0.945
    assert min(found) >= 0.89


def coverage_of_tango(runs: int, seed: int) -> list[float]:
    source, found = np.random.default_rng(seed), []
    for rows, lost, gained in itertools.product(ROWS, (0.02, 0.05, 0.15), (0.02, 0.1, 0.3)):
        counts = source.multinomial(rows, [gained, lost, 1 - gained - lost], size=runs)
        low, high = tango(counts[:, 0], counts[:, 1], rows)
        found.append(float(np.mean((low <= gained - lost) & (gained - lost <= high))))
    return found


def test_tangos_interval_covers_as_it_says() -> None:
    found = coverage_of_tango(1_000, seed=0)
    assert np.mean(found) >= 0.94
    assert min(found) >= 0.90


@pytest.mark.slow
def test_tangos_interval_covers_as_it_says_in_many_simulations() -> None:
    found = coverage_of_tango(20_000, seed=1)
    assert np.mean(found) >= 0.945
    assert min(found) >= 0.92
