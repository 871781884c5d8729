from __future__ import annotations

import numpy as np
import pytest

from veneer.errors import ConfigError
from veneer.evaluation.metrics.base import TaskResult, expanded, first_measure, with_results
from veneer.evaluation.statistics.measures import mean_of


def test_rows_that_a_metric_does_not_have_add_nothing() -> None:
    measure = mean_of("m", [1.0, 0.0, 1.0])
    assert measure is not None
    whole = expanded(measure, [0, 3, 4], 6)
    assert whole.total == measure.total
    assert whole.counts.shape == (6, 2)
    assert np.array_equal(whole.counts[[0, 3, 4]], measure.counts)
    assert whole.counts[[1, 2, 5]].sum() == 0


def test_two_measures_of_one_name_are_refused_since_their_intervals_would_be_mixed_up() -> None:
    loss, own = mean_of("loss", [6.0, 7.0]), mean_of("own", [1.0])
    assert loss is not None
    assert own is not None
    results = [TaskResult([own])]
    assert [one.counts.shape for one in with_results([loss], results, [1], 2)] == [(2, 2), (2, 2)]
    with pytest.raises(ConfigError, match="two measures are named own"):
        with_results([loss], [*results, *results], [1], 2)
    assert first_measure(results) == "own"
    assert first_measure([TaskResult([]), *results]) is None
