"""Dropping keeps the mean, and pruning the largest elements."""

from __future__ import annotations

import torch

from helpers.models.tiny_models import largest_difference
from veneer.adapters.arithmetic import CombinationType, Update, UpdateSum, pruned


def test_dropping_keeps_the_mean_and_pruning_the_largest() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 50, generator=generator), torch.randn(40, 3, generator=generator)
    draws = torch.Generator().manual_seed(1)
    how = UpdateSum(kind=CombinationType.DARE_LINEAR_SVD, generator=draws, density=0.3, rank=40)
    total = torch.zeros(40, 50)
    for _ in range(300):
        found_a, found_b = how.of([Update(a, b, 1.0, 1.0)])
        total += found_b @ found_a
    # The deviation of a mean of 300 draws: √(0.7/0.3/300) of an element.
    assert largest_difference(total / 300, b @ a) < 5 * (0.7 / 0.3 / 300) ** 0.5 * float((b @ a).abs().max())
    few = pruned(a, 0.1)
    assert int((few != 0).sum()) == 15
    assert float(few[few != 0].abs().min()) >= float(a[few == 0].abs().max())
