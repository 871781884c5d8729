"""Losses under a head: those of the definition, whether it is one weight or a module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as cross_entropy_of_scores

from helpers.models.tiny_models import largest_difference
from helpers.training.loss_problems import problem, written_out
from veneer.adapters.layers.dropout import Dropout
from veneer.adapters.layers.linear import LoraLinear
from veneer.losses.scores import CHUNK_ROWS
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


@pytest.mark.parametrize("rows", [23, CHUNK_ROWS + 3])
def test_single_losses_under_a_head_with_dropout_have_their_own_gradient(rows: int) -> None:
    """Backward computes the scores a second time, and must drop what forward dropped."""
    hidden, weight, targets = problem(rows, seed=4)
    share = torch.linspace(-2, 3, rows, dtype=torch.float64)
    draws = torch.Generator()
    factors = torch.randn(5, 12 + 37, generator=draws.manual_seed(7), dtype=torch.float64)
    head = LoraLinear(
        DenseLinear(nn.Parameter(weight, requires_grad=False)),
        factors[:, :12].contiguous(),
        factors[:, 12:].t().contiguous(),
        scale=2.0,
        dropout=Dropout(probability=0.5, generator=draws),
    )
    h = hidden.clone().requires_grad_()

    def gradients(losses: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((losses.square() * share).sum(), (h, head.lora_A, head.lora_B))

    draws.manual_seed(11)
    scores = torch.cat([head(chunk) for chunk in h.split(CHUNK_ROWS)])
    expected = gradients(cross_entropy_of_scores(scores, targets, reduction="none"))
    after = draws.get_state()
    draws.manual_seed(11)
    found = gradients(target_losses(h, head, targets, PLAIN_SCORES))
    assert max(map(largest_difference, found, expected)) < 1e-9
    assert torch.equal(draws.get_state(), after), "what follows draws other masks"
