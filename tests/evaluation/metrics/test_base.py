from __future__ import annotations

import numpy as np

from veneer.evaluation.metrics.base import expanded
from veneer.evaluation.statistics.measures import mean_of


def test_rows_that_a_metric_does_not_have_add_nothing() -> None:
    measure = mean_of("m", [1.0, 0.0, 1.0])
    assert measure is not None
    whole = expanded(measure, [0, 3, 4], 6)
    assert whole.total == measure.total
    assert whole.counts.shape == (6, 2)
    assert np.array_equal(whole.counts[[0, 3, 4]], measure.counts)
    assert whole.counts[[1, 2, 5]].sum() == 0
