"""Losses under a head that is a module: the plain definition in float64, for all that the module trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.models.tiny_models import largest_difference
from helpers.training.loss_problems import problem, written_out
from veneer.losses.module_head import scored_cross_entropy, scored_row_losses, token_losses
from veneer.losses.scores import CHUNK_ROWS


class Head(torch.nn.Module):
    """A head that is more than one weight: a product, a low-rank update, and a frozen offset."""

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        rank = 3
        self.weight = torch.nn.Parameter(weight.to(dtype))
        a, b = (torch.randn(size, generator=generator) for size in ((rank, weight.shape[1]), (len(weight), rank)))
        self.a, self.b = torch.nn.Parameter(a.to(dtype)), torch.nn.Parameter(b.to(dtype))
        self.offset = torch.nn.Parameter(torch.ones(len(weight), dtype=dtype), requires_grad=False)

    def whole(self) -> Tensor:
        return self.weight + self.b @ self.a

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + x @ self.a.t() @ self.b.t() + self.offset


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("learns", ["all", "update", "hidden"])
def test_scores_of_a_module_have_the_losses_and_gradients_of_the_definition(learns: str, chunk: int) -> None:
    hidden, weight, targets = problem(23, seed=1)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        head = Head(weight, dtype)
        head.weight.requires_grad_(learns == "all")
        for factor in (head.a, head.b):
            factor.requires_grad_(learns != "hidden")
        losses, grad_hidden, grad_weight = written_out(hidden, head.whole().detach(), targets)
        h = hidden.to(dtype, copy=True).requires_grad_(learns != "update")
        loss = scored_cross_entropy(h, head, targets, chunk=chunk)
        assert abs(float(loss.detach()) - float(losses.sum())) < tolerance
        (0.5 * loss).backward()
        expected = {
            "a": head.b.detach().double().t() @ grad_weight,
            "b": grad_weight @ head.a.detach().double().t(),
            "weight": grad_weight,
        }
        found = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.requires_grad}
        assert found.keys() == {"all": {"a", "b", "weight"}, "update": {"a", "b"}, "hidden": set()}[learns]
        for name, grad in found.items():
            assert grad is not None
            assert largest_difference(grad, 0.5 * expected[name]) < 10 * tolerance
        if learns == "update":
            assert h.grad is None
        else:
            assert h.grad is not None
            assert largest_difference(h.grad, 0.5 * grad_hidden) < tolerance
        with torch.no_grad():
            assert float(scored_cross_entropy(h, head, targets, chunk=chunk)) == pytest.approx(float(losses.sum()))


def test_losses_of_the_tokens_equal_the_definition() -> None:
    hidden, weight, targets = problem(CHUNK_ROWS + 3)
    losses = written_out(hidden, weight, targets)[0]
    assert largest_difference(token_losses(hidden, lambda h: h @ weight.t(), targets), losses) < 1e-12
    for chunk in (1, 100, CHUNK_ROWS, 10_000):
        ours = token_losses(hidden.float(), lambda h: h @ weight.float().t(), targets, chunk=chunk)
        assert ours.dtype == torch.float32
        assert largest_difference(ours, losses) < 1e-5
    assert not token_losses(hidden.requires_grad_(), lambda h: h @ weight.t(), targets).requires_grad


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("learns", ["all", "update", "hidden"])
def test_losses_of_rows_go_into_any_formula(learns: str, chunk: int) -> None:
    """Each row has a weight of its own in the gradient, as the formula behind it gives it."""
    hidden, weight, targets = problem(23, seed=3)
    share = torch.linspace(-2, 3, 23, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        head = Head(weight, dtype)
        head.weight.requires_grad_(learns == "all")
        for factor in (head.a, head.b):
            factor.requires_grad_(learns != "hidden")
        own = head.whole().detach().double().requires_grad_()
        h64 = hidden.clone().requires_grad_()
        losses = functional.cross_entropy(h64 @ own.t(), targets, reduction="none")
        (losses.square() * share).sum().backward()
        assert own.grad is not None
        h = hidden.to(dtype, copy=True).requires_grad_(learns != "update")
        found = scored_row_losses(h, head, targets, chunk=chunk)
        assert largest_difference(found, losses.detach()) < tolerance
        (found.double().square() * share).sum().backward()
        expected = {
            "a": head.b.detach().double().t() @ own.grad,
            "b": own.grad @ head.a.detach().double().t(),
            "weight": own.grad,
        }
        grads = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.requires_grad}
        assert grads.keys() == {"all": {"a", "b", "weight"}, "update": {"a", "b"}, "hidden": set()}[learns]
        for name, grad in grads.items():
            assert grad is not None
            assert largest_difference(grad, expected[name]) < 100 * tolerance
        if learns != "update":
            assert h.grad is not None
            assert largest_difference(h.grad, h64.grad) < 10 * tolerance


def test_no_rows_have_no_losses() -> None:
    targets = torch.zeros(0, dtype=torch.int64)
    assert token_losses(torch.zeros(0, 12), torch.nn.Linear(12, 37), targets).shape == (0,)
