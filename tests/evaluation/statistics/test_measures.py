from __future__ import annotations

import math

import numpy as np
import pytest

from veneer.evaluation.statistics.measures import (
    Measure,
    exp_quotient,
    mean_of,
    numbered,
    quotient,
    ratio,
    scale_of,
)


def test_a_mean_passes_over_rows_without_a_value() -> None:
    measure = mean_of("m", [1.0, None, 0.0, 1.0])
    assert measure is not None
    assert measure.total == pytest.approx(2 / 3)
    assert measure.binary
    assert mean_of("m", [None, None]) is None


def test_a_share_is_told_from_a_mean() -> None:
    for values, binary in (([0.0, 1.0], True), ([0.5, 1.0], False)):
        measure = mean_of("m", values)
        assert measure is not None
        assert measure.binary is binary
    assert not ratio("loss", [1.0, 0.0], [1.0, 1.0]).binary


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0, 0.7], (0.0, 1.0)), ([70.0], (0.0, 100.0)), ([0.1 * 3 / 0.003], (0.0, 100.0)), ([1000.0], (0.0, 1000.0)),
        ([-3.0], (-10.0, 1.0)), ([-1.0, 1.0], (-1.0, 1.0)), ([1.7e308], (0.0, 1e308)), ([], (0.0, 1.0)),
    ],
)  # fmt: skip
def test_scores_are_of_a_scale_that_ends_at_a_power_of_ten(values: list[float], scale: tuple[float, float]) -> None:
    assert scale_of(values) == scale


def test_clusters_add_up_and_change_no_value() -> None:
    source = np.random.default_rng(0)
    measure = ratio("m", source.random(20).tolist(), source.random(20).tolist())
    clusters = numbered(source.integers(0, 5, size=20).tolist())
    together = measure.clustered(clusters)
    assert together.total == pytest.approx(measure.total)
    for cluster in range(5):
        assert np.allclose(together.counts[cluster], measure.counts[clusters == cluster].sum(0))


def test_clusters_are_numbered_as_they_appear() -> None:
    assert numbered(["b", "a", "b", None, "c"]).tolist() == [0, 1, 0, 2, 3]


def test_no_rows_give_no_number() -> None:
    sums = np.array([[0.0, 0.0], [3.0, 2.0]])
    assert math.isnan(quotient(sums)[0])
    assert quotient(sums)[1] == 1.5
    assert exp_quotient(sums)[1] == pytest.approx(math.exp(1.5))
    assert Measure("m", sums, quotient, None).total == 1.5
