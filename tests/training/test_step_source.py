"""The rows of one step, over all of its lanes."""

from __future__ import annotations

import torch

from helpers.training.micro_batches import micro_batch
from veneer.training.objectives.base import Sums
from veneer.training.step_source import StepBatches


def test_the_batches_of_a_step_are_those_of_its_lanes_in_their_order() -> None:
    first, second, third = (micro_batch(count) for count in (3, 5, 7))
    step = StepBatches(1, [[first], [], [second, third]], {"loss": 2.0})
    assert [id(one) for one in step.batches] == [id(first), id(second), id(third)]


def test_backward_begins_from_the_terms_over_their_weights_times_the_factor_of_the_loss() -> None:
    sums = Sums({"loss": torch.tensor(6.0), "nll": torch.tensor(1.0)})
    weights = {"loss": 4.0, "nll": 2.0}
    assert float(StepBatches(1, [], weights).loss(sums)) == 6 / 4 + 1 / 2
    assert float(StepBatches(1, [], weights, scale=8).loss(sums)) == 8 * (6 / 4 + 1 / 2)
