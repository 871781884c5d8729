from __future__ import annotations

import math

import numpy as np
import pytest

from veneer.evaluation.statistics.student import NORMAL, probability, quantile


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (20, 2.0860), (30, 2.0423), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_printed_tables(freedom: int, expected: float) -> None:
    assert quantile(0.975, freedom) == pytest.approx(expected, abs=6e-5)


def test_with_one_degree_of_freedom_it_is_cauchys_distribution() -> None:
    for t in np.random.default_rng(0).normal(scale=5, size=20):
        assert probability(float(t), 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-10)


def test_with_two_degrees_of_freedom_it_has_a_closed_form() -> None:
    for t in np.random.default_rng(1).normal(scale=3, size=20):
        assert probability(float(t), 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-10)


def test_with_many_it_is_the_normal_distribution() -> None:
    for t in (-2.5, -0.3, 0.0, 1.7):
        assert probability(t, 1e7) == pytest.approx(NORMAL.cdf(t), abs=1e-6)


@pytest.mark.parametrize("freedom", [60, 1e3, 1e5, 1e6, 1e7])
def test_nothing_lies_beyond_a_value_that_is_large(freedom: float) -> None:
    for t in (13.0, 100.0, 1e3, 1e4, 1e8):
        assert 1 - probability(t, freedom) < 1e-7
        assert probability(-t, freedom) < 1e-7


def test_degrees_of_freedom_need_not_be_whole() -> None:
    draws = np.random.default_rng(2)
    freedom = 4.6
    values = draws.normal(size=400_000) / np.sqrt(draws.gamma(freedom / 2, 2 / freedom, size=400_000))
    assert quantile(0.975, freedom) == pytest.approx(float(np.quantile(values, 0.975)), rel=0.02)


def test_a_quantile_undoes_the_probability() -> None:
    for freedom in (1.0, 2.5, 17.0, 400.0):
        for share in (0.5, 0.8, 0.975, 0.9995):
            assert probability(quantile(share, freedom), freedom) == pytest.approx(share, abs=1e-9)
