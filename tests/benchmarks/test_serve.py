"""The serving benchmark's own arithmetic: whose adapter is asked for, what is counted, and what is called held."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import serving_load as load
finally:
    sys.path.remove(str(BENCHMARKS))


def test_workloads_have_the_popularity_that_they_are_named_after() -> None:
    assert load.workload("identical", 5, 100, 0) == [0] * 5
    assert load.workload("distinct", 5, 100, 0) == [0, 1, 2, 3, 4]
    uniform = Counter(load.workload("uniform", 64, 100, 0))
    assert len(uniform) == 8
    assert set(uniform.values()) == {8}
    skewed = Counter(load.workload("skewed", 20_000, 100, 0))
    assert skewed[0] / skewed[1] == pytest.approx(1.5, rel=0.1)
    zipf = Counter(load.workload("zipf", 50_000, 1000, 0))
    assert zipf[0] / zipf[9] == pytest.approx(10, rel=0.2)
    assert max(zipf) < 1000


def test_a_load_counts_tokens_by_both_clocks_and_answers_in_time() -> None:
    seen = (load.Seen(None, 0.5, 1.5, 11), load.Seen(1, 3.0, 4.0, 11))
    found = load.Load(seen, seconds=4.0, processor=2.0)
    assert (found.rate, found.processor_rate) == (5.5, 11.0)
    assert seen[0].each == pytest.approx(0.1)
    assert found.goodput(1.0, 0.2) == 0.5
    assert found.goodput(1.0, 0.05) == 0.0
    assert (found.first(0.5), found.first(0.95)) == (0.5, 3.0)


def test_quantiles_are_values_that_were_seen() -> None:
    assert load.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert load.quantile(list(map(float, range(1, 101))), 0.95) == 95.0
    assert load.quantile([7.0], 0.95) == 7.0
