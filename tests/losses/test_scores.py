"""Losses and gradients of scores, under either head: they neither vanish nor overflow, however far one score leads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.models.tiny_models import largest_difference
from helpers.training.loss_problems import leaves, problem, written_out
from veneer.losses.linear_head import linear_cross_entropy, row_losses
from veneer.losses.module_head import scored_cross_entropy, token_losses
from veneer.products import Scores


def one_score(lead: float, *, others: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A head of `others + 1` tokens of which the first leads by `lead` (follows, where negative)."""
    hidden = torch.ones(1, 1, dtype=dtype)
    weight = torch.cat([torch.tensor([[lead]]), torch.zeros(others, 1)]).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lead", [5.0, 16.5, 17.0, 20.0, 30.0, 60.0, 80.0])
def test_a_target_that_leads_far_keeps_its_loss_and_its_gradient(lead: float, dtype: torch.dtype) -> None:
    # Taken as p − 1 the gradient, and as −log p the loss, are 0 in float32 once the lead passes 16.6.
    h, w = one_score(lead, others=3, dtype=dtype)
    loss = linear_cross_entropy(h, w, torch.tensor([0]))
    loss.backward()
    lead = float(w[0].detach())
    exact = 3 * math.exp(-lead) / (1 + 3 * math.exp(-lead))
    close = 1e-5 if dtype == torch.float32 else 2**-7
    assert float(loss.detach()) == pytest.approx(math.log1p(3 * math.exp(-lead)), rel=1e-5)
    assert w.grad is not None
    assert float(w.grad[0]) == pytest.approx(-exact, rel=close)
    assert w.grad[1:, 0].tolist() == pytest.approx([exact / 3] * 3, rel=close)
    alone = token_losses(h.detach(), lambda x: x @ w.t(), torch.tensor([0]))
    assert alone.tolist() == pytest.approx([math.log1p(3 * math.exp(-lead))], rel=1e-5)


@pytest.mark.parametrize("gap", [10.0, 88.0, 104.0, 200.0, 5000.0])
def test_an_unlikely_target_keeps_its_loss(gap: float) -> None:
    h, w = one_score(-gap)
    loss = linear_cross_entropy(h, w, torch.tensor([0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(gap, rel=1e-5)
    assert w.grad is not None
    assert w.grad[:, 0].tolist() == pytest.approx([-1.0, 1.0], rel=1e-4)
    assert h.grad is not None
    assert float(h.grad) == pytest.approx(gap, rel=1e-4)
    assert token_losses(h.detach(), lambda x: x @ w.t(), torch.tensor([0])).tolist() == pytest.approx([gap], rel=1e-5)


def test_equal_scores_lose_the_logarithm_of_the_vocabulary() -> None:
    hidden, weight = torch.zeros(2, 3, requires_grad=True), torch.zeros(5, 3)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 4]))
    assert float(loss.detach()) == pytest.approx(2 * math.log(5), rel=1e-7)


def test_large_scores_do_not_overflow() -> None:
    hidden, weight, targets = problem(5)
    losses, grad_hidden, _ = written_out(1e4 * hidden, weight, targets)
    h, w = leaves(1e4 * hidden, weight, torch.float32)
    loss = linear_cross_entropy(h, w, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(losses.sum()), rel=1e-5)
    assert h.grad is not None
    assert largest_difference(h.grad, grad_hidden) < 1e-3


@pytest.mark.parametrize("scores", [Scores(0.3), Scores(softcap=2.0), Scores(1.7, 3.0)])
def test_scores_that_are_scaled_and_capped_are_those_of_the_definition(scores: Scores) -> None:
    """c · tanh(s · h Wᵀ / c), for a head that is one weight, for one that is a module, and for each token."""
    hidden, weight, targets = problem(23)

    def definition(h: Tensor, w: Tensor) -> Tensor:
        products = h @ w.T * scores.scale
        capped = products if scores.softcap is None else torch.tanh(products / scores.softcap) * scores.softcap
        return functional.cross_entropy(capped, targets, reduction="none")

    exact = leaves(hidden, weight, torch.float64)
    definition(*exact).sum().backward()
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 0.1)):
        h, w = leaves(hidden, weight, dtype)
        head = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=dtype)
        head.weight.data.copy_(weight)
        own = hidden.to(dtype, copy=True).requires_grad_()
        linear_cross_entropy(h, w, targets, chunk=7, shaping=scores).backward()
        scored_cross_entropy(own, head, targets, chunk=7, shaping=scores).backward()
        for found, expected in zip(
            (h.grad, w.grad, own.grad, head.weight.grad), [x.grad for x in exact] * 2, strict=True
        ):
            assert found is not None
            assert expected is not None
            assert largest_difference(found, expected) < tolerance
        by_token = token_losses(hidden.to(dtype), head, targets, chunk=7, shaping=scores)
        assert largest_difference(by_token, definition(hidden, weight)) < tolerance


def test_capped_losses_are_formed_in_float32() -> None:
    """A product in bfloat16 is rounded once: its tanh is not rounded again."""
    hidden, weight, targets = (x.bfloat16() if x.is_floating_point() else x for x in problem(64, vocab=301))
    products = (hidden @ weight.T).float()
    expected = functional.cross_entropy(torch.tanh(products / 30) * 30, targets, reduction="sum")
    loss = linear_cross_entropy(hidden, weight, targets, shaping=Scores(softcap=30.0))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_sure_token_keeps_its_gradient_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loss of 1e-4 and less the gradient of its scores is below what float16 holds in full."""
    hidden, weight, _ = problem(64, vocab=37, dim=12)
    targets = (hidden @ weight.T).argmax(-1)
    hidden, weight = (6 * hidden).half().double(), weight.half().double()
    wide = leaves(hidden, weight, torch.float64)
    (exact,) = torch.autograd.grad(linear_cross_entropy(*wide, targets), wide[:1])
    sure = (exact.norm(dim=-1) < 1e-3) & (exact.norm(dim=-1) > 1e-6)
    assert int(sure.sum()) > 10

    def errors(dtype: torch.dtype) -> list[float]:
        found = []
        for of in (linear_cross_entropy, row_losses):
            pair = leaves(hidden, weight, dtype)
            loss = of(*pair, targets).double().sum() * 256
            grad = torch.autograd.grad(loss, pair[:1])[0].double() / 256
            found.append(float(((grad - exact).norm(dim=-1) / exact.norm(dim=-1))[sure].max()))
        return found

    assert max(errors(torch.float16)) < 0.02
    monkeypatch.setattr("veneer.losses.scores.FLOAT16_FACTOR", 1.0)
    assert min(errors(torch.float16)) > 0.04
