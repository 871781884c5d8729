"""Cross-entropy in Triton against the reference of `veneer.losses.scores` in float64, and that one against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu.cross_entropy import cross_entropy_in_place

pytestmark = pytest.mark.usefixtures("seed")

BOUND = 6e-6
"""Relative, for every single gradient and loss: the difference of two scores of 30 in size is itself known to 2e-6."""


def reference(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradients in float64, with the target's gradient from the sum of the others."""
    wide = scores.double()
    logs = torch.log_softmax(wide, -1)
    rows = torch.arange(len(targets))
    grads = logs.exp()
    others = grads.clone()
    others[rows, targets] = 0.0
    rest = others.sum(-1)
    grads[rows, targets] = -rest
    losses = torch.where(rest < 0.5, -torch.log1p(-rest), -logs[rows, targets])
    return losses, grads


def share(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to each expected number; numbers below float32's smallest count as that."""
    smallest = torch.full_like(expected, 1e-37)
    return float(((found.double() - expected).abs() / expected.abs().maximum(smallest)).max())


@pytest.mark.parametrize("vocab", [1, 2, 7, 100, 1000, 8192, 8193, 49152, 128256, 262144])
def test_losses_and_gradients_are_those_of_the_reference(vocab: int) -> None:
    rows = 5 if vocab < 10_000 else 2
    scores, targets = torch.randn(rows, vocab) * 5, torch.randint(vocab, (rows,))
    expected_losses, expected_grads = reference(scores, targets)
    found = scores.clone()
    losses = cross_entropy_in_place(found, targets)
    assert losses.dtype == torch.float32
    assert share(losses, expected_losses) < BOUND
    assert share(found, expected_grads) < BOUND


def test_a_factor_keeps_the_digits_of_small_gradients_in_float16() -> None:
    scores = torch.full((1, 9), -15.2)
    scores[0, 4] = 0.0
    target = torch.tensor([4])
    _, exact = reference(scores.half(), target)
    for factor, bound in ((1.0, None), (1024.0, 2e-3)):
        found = scores.half()
        cross_entropy_in_place(found, target, factor=factor)
        error = share(found.double() / factor, exact)
        assert error > 0.02 if bound is None else error < bound


def test_the_gradient_is_that_of_autograd() -> None:
    scores, targets = torch.randn(6, 301) * 3, torch.randint(301, (6,))
    leaf = scores.double().requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(leaf, targets, reduction="sum"), leaf)
    cross_entropy_in_place(scores, targets)
    assert float((scores.double() - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("lead", [5.0, 17.0, 40.0, 80.0])
@pytest.mark.parametrize("vocab", [50, 9000])
def test_a_target_that_leads_by_far_keeps_its_gradient(vocab: int, lead: float) -> None:
    scores, targets = torch.randn(3, vocab), torch.tensor([0, vocab // 2, vocab - 1])
    scores[torch.arange(3), targets] = lead
    expected_losses, expected_grads = reference(scores, targets)
    losses = cross_entropy_in_place(scores, targets)
    assert share(losses, expected_losses) < 2e-5
    assert share(scores, expected_grads) < 2e-5
    assert bool((scores[torch.arange(3), targets] < 0).all())


@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")
def test_an_unlikely_target_and_large_scores() -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0], [-3e38, 3e38, 1.0], [-math.inf, 2.0, 2.0]])
    losses = cross_entropy_in_place(scores, torch.tensor([1, 1, 2]))
    assert losses.tolist() == pytest.approx([2e4, 0.0, math.log(2)])
    assert scores.flatten().tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, -0.5])


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_what_is_not_a_number_stays_visible() -> None:
    scores = torch.randn(4, 20)
    scores[1, 3] = math.nan
    scores[2, 4] = math.inf
    losses = cross_entropy_in_place(scores, torch.tensor([0, 0, 0, 20]))
    assert losses.isnan().tolist() == [False, True, True, True]


def test_float16_scores_become_their_gradient_in_float16() -> None:
    scores, targets = (torch.randn(4, 777) * 4).half(), torch.randint(777, (4,))
    _, expected = reference(scores, targets)
    cross_entropy_in_place(scores, targets)
    assert scores.dtype == torch.float16
    torch.testing.assert_close(scores.double(), expected, rtol=2**-10, atol=2**-24)


def test_without_a_gradient_the_scores_stay() -> None:
    scores, targets = torch.randn(3, 500), torch.randint(500, (3,))
    before = scores.clone()
    losses = cross_entropy_in_place(scores, targets, gradient=False)
    assert torch.equal(scores, before)
    assert share(losses, reference(scores, targets)[0]) < BOUND
