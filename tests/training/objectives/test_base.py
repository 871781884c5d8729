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


def test_nothing_is_read_before_a_number_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU would be waited for at every reading; with the gradient's norm it is once a step."""
    reads: list[int] = []
    tolist = torch.Tensor.tolist

    def noted(x: torch.Tensor) -> object:
        reads.append(x.numel())
        return tolist(x)

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda x: pytest.fail("a number was read by itself"))
    means = Means({"one": 2.0, "seen": 4.0})
    for term in (3.0, 5.0):
        means.add(Sums({"one": torch.tensor(term, dtype=torch.float64)}, {"seen": torch.tensor(2)}))
    assert reads == []
    assert means.read(torch.tensor(49.0)) == 49.0
    assert reads == [5]
    assert (means.loss, means.metrics) == (4.0, {"seen": 1.0})
    assert reads == [5]


def test_joined_means_are_those_of_all_micro_batches() -> None:
    parts = [Sums({"one": torch.tensor(value)}, {"seen": value}) for value in (3.0, 4.0, 5.0)]
    whole, first, second = (Means({"one": 2.0, "seen": 4.0}) for _ in range(3))
    for means, sums in ((whole, parts), (first, parts[:1]), (second, parts[1:])):
        for one in sums:
            means.add(one)
    assert first.joined(second).numbers().tolist() == whole.numbers().tolist() == [6.0, 0.0, 0.0, 1.0, 3.0]


def test_processes_understand_each_other_whatever_order_their_weights_are_in() -> None:
    """Answers that a run has taken from a checkpoint have their metrics in the order of its file."""
    weights = {"one": 1.0, "seen": 4.0, "most": 2.0, "none": 1.0}
    means = Means(weights)
    means.add(Sums({"one": torch.tensor(1.0)}, {"seen": 8.0, "most": 6.0}))
    other = {name: weights[name] for name in ("most", "none", "seen", "one")}
    found = Means.of_numbers(other, means.numbers())
    assert (found.loss, found.metrics) == (1.0, {"seen": 2.0, "most": 3.0})
    assert list(found.metrics) == ["most", "seen"]
    assert Means.of_numbers(weights, found.numbers()).metrics == means.metrics
