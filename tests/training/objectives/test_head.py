"""Losses under a head: those of the definition, whether it is one weight or a module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.training.loss_problems import problem, written_out
from veneer.model.leaves import DenseLinear
from veneer.products import PLAIN_SCORES
from veneer.training.objectives.head import cross_entropy, target_losses


@pytest.mark.parametrize("plain", [True, False])
def test_a_head_has_the_losses_of_the_definition_however_it_is_stored(plain: bool) -> None:
    hidden, weight, targets = problem(23, seed=2)
    bias = None if plain else nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype))
    head = DenseLinear(nn.Parameter(weight.clone()), bias)
    expected, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    rows = hidden.clone().requires_grad_()
    total = cross_entropy(rows, head, targets, PLAIN_SCORES)
    losses = target_losses(rows, head, targets, PLAIN_SCORES)
    assert torch.allclose(losses.detach(), expected)
    assert float(total.detach()) == pytest.approx(float(expected.sum()))
    (total + losses.sum()).backward()
    assert rows.grad is not None
    assert head.weight.grad is not None
    assert torch.allclose(rows.grad, 2 * grad_hidden)
    assert torch.allclose(head.weight.grad, 2 * grad_weight)
