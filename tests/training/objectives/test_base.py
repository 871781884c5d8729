"""Sums of a micro-batch and the means of a step."""

from __future__ import annotations

import pytest
import torch

from veneer.training.objectives.base import Means, Sums


def test_a_step_adds_up_the_shares_of_its_micro_batches_whatever_they_are() -> None:
    weights = {"one": 4.0, "other": 10.0, "seen": 8.0}
    parts = [(3.0, 20.0, 4.0), (5.0, -10.0, 2.0)]
    means = Means(weights)
    losses = []
    for one, other, seen in parts:
        sums = Sums({"one": torch.tensor(one), "other": torch.tensor(other)}, {"seen": seen})
        losses.append(float(sums.loss(weights)))
        assert float(sums.total) == one + other
        means.add(sums)
    assert means.loss == pytest.approx(sum(losses))
    assert means.loss == pytest.approx(8.0 / 4 + 10.0 / 10)
    assert means.metrics == pytest.approx({"one": 2.0, "other": 1.0, "seen": 0.75})


def test_one_term_alone_is_no_metric() -> None:
    means = Means({"one": 2.0})
    means.add(Sums({"one": torch.tensor(3.0)}))
    assert (means.loss, means.metrics) == (1.5, {})
