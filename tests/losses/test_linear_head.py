"""Losses under a head that is one weight: the plain definition in float64, whatever the chunk and the dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.models.tiny_models import largest_difference
from helpers.training.loss_problems import leaves, problem, written_out
from veneer.losses.linear_head import linear_cross_entropy, row_losses
from veneer.products import Scores, linear


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("rows", [1, 7, 23])
def test_loss_and_gradients_equal_the_definition(rows: int, chunk: int) -> None:
    hidden, weight, targets = problem(rows, seed=rows)
    losses, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        h, w = leaves(hidden, weight, dtype)
        loss = linear_cross_entropy(h, w, targets, chunk=chunk)
        assert loss.dtype == torch.float64
        assert loss.shape == ()
        assert abs(float(loss.detach()) - float(losses.sum())) < tolerance
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        assert (h.grad.dtype, w.grad.dtype) == (dtype, dtype)
        assert largest_difference(h.grad, grad_hidden) < tolerance
        assert largest_difference(w.grad, grad_weight) < tolerance


def test_the_gradients_pass_the_gradient_check() -> None:
    hidden, weight, targets = problem(9)
    h, w = leaves(hidden, weight, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, targets, chunk=4), (h, w))
    assert torch.autograd.gradcheck(lambda a: 0.3 * linear_cross_entropy(a, weight, targets, chunk=4), (h,))
    assert torch.autograd.gradcheck(lambda b: 0.3 * linear_cross_entropy(hidden, b, targets, chunk=4), (w,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunk_changes_results_by_the_order_of_sums_alone(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(64)
    results = []
    for chunk in (1, 5, 64, 1000):
        h, w = leaves(hidden, weight, dtype)
        loss = linear_cross_entropy(h, w, targets, chunk=chunk)
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        results.append((loss.detach(), h.grad, w.grad))
    for other in results[1:]:
        assert abs(float(other[0] - results[0][0])) < (1e-4 if dtype == torch.float32 else 0.1)
        assert largest_difference(other[1], results[0][1]) <= (3e-6 if dtype == torch.float32 else 0.04)
        assert largest_difference(other[2], results[0][2]) <= (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_give_zero_and_zero_gradients(dtype: torch.dtype) -> None:
    h, w = leaves(*problem(0)[:2], dtype)
    targets = torch.zeros(0, dtype=torch.int64)
    loss = linear_cross_entropy(h, w, targets)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert h.grad is not None
    assert w.grad is not None
    assert h.grad.shape == (0, 12)
    assert torch.equal(w.grad, torch.zeros(37, 12, dtype=dtype))


def test_bfloat16_differs_from_float32_by_rounding_alone() -> None:
    hidden, weight, targets = problem(40, vocab=300, dim=64)
    hidden, weight = (0.4 * hidden).bfloat16(), (0.4 * weight).bfloat16()
    losses, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    h, w = leaves(hidden, weight, torch.bfloat16)
    loss = linear_cross_entropy(h, w, targets, chunk=16)
    loss.backward()
    assert abs(float(loss.detach()) - float(losses.sum())) < 0.01 * float(losses.sum())
    for grad, exact in ((h.grad, grad_hidden), (w.grad, grad_weight)):
        assert grad is not None
        assert grad.dtype == torch.bfloat16
        error = (grad.double() - exact).square().mean().sqrt()
        assert float(error) < 0.01 * float(exact.square().mean().sqrt())


def test_a_float32_head_under_bfloat16_activations_gets_a_float32_gradient() -> None:
    hidden, weight, targets = problem(30)
    h, w = hidden.bfloat16().requires_grad_(), weight.float().requires_grad_()
    linear_cross_entropy(h, w, targets).backward()
    assert h.grad is not None
    assert w.grad is not None
    assert (h.grad.dtype, w.grad.dtype) == (torch.bfloat16, torch.float32)
    exact = written_out(hidden.bfloat16(), weight.bfloat16(), targets)[2]
    assert float((w.grad - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("count", [3, 7, 1500, 77_777])
def test_dividing_by_the_tokens_of_the_step_does_not_round_in_bfloat16(count: int) -> None:
    """1/count rounded to bf16 would scale the whole gradient by as much as 1/512 too much or too little."""
    hidden, weight, targets = problem(60, dim=32)
    h, w = leaves(hidden, weight, torch.bfloat16)
    whole = torch.autograd.grad(linear_cross_entropy(h, w, targets), (h, w))
    parts = torch.autograd.grad(linear_cross_entropy(h, w, targets) / count, (h, w))
    # The rounding of each element averages out, that of a common factor would not.
    for part, one in zip(parts, whole, strict=True):
        ratio = float((part.double() * one.double()).sum() / one.double().square().sum()) * count
        assert abs(ratio - 1) < 3e-4


@pytest.mark.parametrize("needs", ["hidden", "weight", "neither"])
def test_only_what_is_asked_for_is_computed(needs: str) -> None:
    hidden, weight, targets = problem(10)
    _, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    h, w = hidden.requires_grad_(needs == "hidden"), weight.requires_grad_(needs == "weight")
    loss = linear_cross_entropy(h, w, targets)
    assert loss.requires_grad == (needs != "neither")
    if needs != "neither":
        loss.backward()
        grad, exact = (h.grad, grad_hidden) if needs == "hidden" else (w.grad, grad_weight)
        assert grad is not None
        assert largest_difference(grad, exact) < 1e-11
    assert (h.grad is None) == (needs != "hidden")
    assert (w.grad is None) == (needs != "weight")


def test_equals_torch_on_a_strided_input() -> None:
    hidden, weight, targets = problem(18)
    h = hidden.T.contiguous().T.float().requires_grad_()
    ours = torch.autograd.grad(linear_cross_entropy(h, weight.float(), targets, chunk=5), h)[0]
    theirs = torch.autograd.grad(functional.cross_entropy(h @ weight.float().T, targets, reduction="sum"), h)[0]
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_losses_of_rows_under_one_weight_are_the_definition(chunk: int, softcap: float | None) -> None:
    hidden, weight, targets = problem(23, seed=4)
    share = torch.linspace(-2, 3, 23, dtype=torch.float64)
    shaping = Scores(scale=0.5, softcap=softcap)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        h64, w64 = leaves(hidden, weight, torch.float64)
        logits = 0.5 * (h64 @ w64.t())
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        (losses.square() * share).sum().backward()
        h, w = leaves(hidden, weight, dtype)
        found = row_losses(h, w, targets, chunk=chunk, shaping=shaping)
        assert found.dtype == dtype
        assert largest_difference(found, losses.detach()) < tolerance
        (found.double().square() * share).sum().backward()
        for ours, theirs in ((h.grad, h64.grad), (w.grad, w64.grad)):
            assert ours is not None
            assert largest_difference(ours, theirs) < 10 * tolerance


def test_losses_of_rows_in_bfloat16_weigh_rows_in_float32() -> None:
    """A weight that bfloat16 rounds by 1/300 is not rounded: it is multiplied behind the product."""
    hidden, weight, targets = problem(40, seed=5)
    h, w = leaves(hidden, weight, torch.bfloat16)
    row_losses(h, w, targets).sum().backward()
    plain = h.grad
    assert plain is not None
    again, w2 = leaves(hidden, weight, torch.bfloat16)
    (row_losses(again, w2, targets) * (1 + 1 / 300)).sum().backward()
    assert again.grad is not None
    expected = (plain.float() * (1 + 1 / 300)).to(torch.bfloat16)
    assert float((again.grad - expected).abs().max()) <= 2**-8 * float(expected.abs().max())
    assert not torch.equal(again.grad, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_head_scores_rows_once_to_the_bits_of_a_trained_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = problem(50, seed=7)
    share = torch.linspace(-2, 3, 50)
    scored: list[int] = []

    def note(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scored.append(len(x))
        return linear(x, *args, **kwargs)

    monkeypatch.setattr("veneer.losses.linear_head.linear", note)
    found = {}
    for trained in (True, False):
        h, w = leaves(hidden, weight, dtype)
        w.requires_grad_(trained)
        losses = row_losses(h, w, targets, chunk=16)
        (losses * share).sum().backward()
        found[trained] = losses.detach(), h.grad, len(scored)
        scored.clear()
    (losses, gradient, twice), (own, own_gradient, once) = found[True], found[False]
    assert (twice, once) == (8, 4)
    assert torch.equal(losses, own)
    assert gradient is not None
    assert own_gradient is not None
    assert torch.equal(gradient, own_gradient)


def test_no_more_than_a_chunk_of_scores_is_held() -> None:
    hidden, weight, targets = problem(2_000, vocab=5_000, seed=6)
    h, w = leaves(hidden, weight, torch.float32)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        row_losses(h, w, targets).sum()
    assert sum(kept) <= h.numel() + w.numel() + len(targets)


def test_many_rows_of_one_token_do_not_overflow_the_heads_gradient_in_float16() -> None:
    hidden = torch.full((300, 4), 250.0, dtype=torch.float16)
    weight = torch.zeros(5, 4, dtype=torch.float32, requires_grad=True)
    targets = torch.zeros(300, dtype=torch.int64)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad[0], torch.tensor(-300 * 250 * 0.8), rtol=1e-3)
