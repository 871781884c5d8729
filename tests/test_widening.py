"""bfloat16 products where torch has no vector code for them: against float64, with outputs that are rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from veneer import products, widening
from veneer.losses.linear_head import linear_cross_entropy
from veneer.model.leaves import DenseLinear
from veneer.native.library import kernels
from veneer.products import (
    LowRank,
    apply_trained,
    factor_grad,
    linear,
    linear_input_grad,
    stored_linear,
    stored_linear_input_grad,
    update_input_grad,
)
from veneer.quant.four_bit import QuantLinear
from veneer.widening import LEAST_ROWS, widened

pytestmark = [
    pytest.mark.skipif(kernels() is None, reason="no compiled kernels"),
    pytest.mark.usefixtures("_as_with_avx2_alone"),
]
SHAPES = [(1, 64, 48), (37, 70, 65), (130, 576, 192), (200, 192, 576)]
"""Rows, depth, columns."""


@pytest.fixture
def _as_with_avx2_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "torch_multiplies", lambda dtype: dtype.itemsize != 2)
    monkeypatch.setattr(products, "compiled", lambda: False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def assert_rounded_once(found: Tensor, exact: Tensor, terms: Tensor) -> None:
    """Half a step of bfloat16, and sums in float32 of terms of that magnitude, are all that may be lost."""
    assert found.dtype is torch.bfloat16
    assert bool(((found.double() - exact).abs() <= exact.abs() * 2**-8 + terms * 2**-20).all())


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("rank", [0, 3])
def test_products_both_ways_are_rounded_once(rows: int, depth: int, columns: int, rank: int) -> None:
    x, weight, bias, grad = random(rows, depth), random(columns, depth), random(columns), random(rows, columns)
    left, b, a = random(rows, rank), random(columns, rank), random(rank, depth)
    up, down = (LowRank(left, b, 0.7), LowRank(left, a, 0.7)) if rank else (None, None)

    y, back = linear(x, weight, bias, up), linear_input_grad(grad, weight, down)

    exact = x.double() @ weight.double().T + bias.double() + 0.7 * (left.double() @ b.double().T)
    terms = x.double().abs() @ weight.double().abs().T + left.double().abs() @ b.double().abs().T + 9
    assert_rounded_once(y, exact, terms)
    exact = grad.double() @ weight.double() + 0.7 * (left.double() @ a.double())
    terms = grad.double().abs() @ weight.double().abs() + left.double().abs() @ a.double().abs()
    assert_rounded_once(back, exact, terms)
    filled = torch.empty_like(y)
    assert linear(x, weight, bias, up, out=filled) is filled
    assert torch.equal(filled, y)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_layer_is_multiplied_by_its_weight_in_bfloat16(quantised: bool) -> None:
    weight = random(48, 128)
    layer = QuantLinear.from_weight(weight) if quantised else DenseLinear(torch.nn.Parameter(weight))
    exact = layer.dequantize(torch.bfloat16).double()
    x, grad, onto = random(21, 128), random(21, 48), random(21, 128)

    y, back = stored_linear(x, layer), stored_linear_input_grad(grad, layer)

    assert_rounded_once(y, x.double() @ exact.T, x.double().abs() @ exact.abs().T)
    assert_rounded_once(back, grad.double() @ exact, grad.double().abs() @ exact.abs())
    expected = onto + back
    assert torch.equal(stored_linear_input_grad(grad, layer, onto=onto), expected)


def test_few_rows_at_a_time_give_the_bits_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, update = random(100, 64), random(48, 64), LowRank(random(100, 4), random(48, 4), 0.5)
    whole, gradient = linear(x, weight, None, update), factor_grad(x, linear(x, weight), 2.0)
    seen: list[int] = []

    def made(y: Tensor, dtype: torch.dtype) -> Tensor:
        seen.append(len(y))
        return torch.empty(y.shape, dtype=dtype)

    monkeypatch.setattr(widening, "WIDENED", 1)
    monkeypatch.setattr(torch, "empty_like", made)
    assert torch.equal(linear(x, weight, None, update), whole)
    assert max(seen) == LEAST_ROWS
    torch.testing.assert_close(factor_grad(x, linear(x, weight), 2.0), gradient, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rows", "narrow", "wide"), [(1, 4, 48), (700, 16, 65)])
def test_a_factors_gradient_is_summed_in_float32(rows: int, narrow: int, wide: int) -> None:
    left, right = random(rows, narrow), random(rows, wide)
    found = factor_grad(left, right, -0.25)
    assert found.dtype is torch.float32
    exact, terms = left.double().T @ right.double(), left.double().abs().T @ right.double().abs()
    assert bool(((found.double() + 0.25 * exact).abs() <= terms * 2**-20).all())


def test_the_gradient_of_an_updates_own_input_is_rounded_once_before_its_scale() -> None:
    left, a = random(30, 4), random(4, 64)
    exact = left.double() @ a.double()
    assert_rounded_once(update_input_grad(LowRank(left, a, 0.5)), 0.5 * exact, left.double().abs() @ a.double().abs())


def test_a_trained_weight_gets_its_gradient_in_float32() -> None:
    x, grad = random(2, 20, 64), random(2, 20, 48)
    x.requires_grad_()
    weight, bias = torch.randn(48, 64, requires_grad=True), torch.randn(48, requires_grad=True)

    y = apply_trained(x, weight, bias)
    y.backward(grad)

    rows, flat = x.detach().flatten(0, 1).double(), grad.flatten(0, 1).double()
    narrow = weight.detach().bfloat16().double()
    exact = rows @ narrow.T + bias.detach().double()
    assert_rounded_once(y.detach().flatten(0, 1), exact, rows.abs() @ narrow.abs().T + bias.detach().double().abs())
    assert x.grad is not None
    assert_rounded_once(x.grad.flatten(0, 1), flat @ narrow, flat.abs() @ narrow.abs())
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), flat.T @ rows, rtol=1e-5, atol=1e-4)
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad.double(), flat.sum(0), rtol=1e-5, atol=1e-4)


def test_the_loss_and_gradients_under_a_trained_head_are_those_of_torch_within_their_rounding() -> None:
    hidden, head, targets = random(50, 64), torch.randn(300, 64) * 0.1, torch.randint(300, (50,))
    hidden.requires_grad_()
    head.requires_grad_()
    loss = linear_cross_entropy(hidden, head, targets)
    loss.backward()
    wide, weight = hidden.detach().double().requires_grad_(), head.detach().bfloat16().double().requires_grad_()
    exact = functional.cross_entropy(wide @ weight.T, targets, reduction="sum")
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=2**-7)
    for found, wanted in ((hidden.grad, wide.grad), (head.grad, weight.grad)):
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found.double(), wanted, rtol=2**-5, atol=2**-6 * float(wanted.abs().max()))


def test_no_product_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mm", "addmm", "matmul"):
        monkeypatch.setattr(torch, name, lambda *given, **named: pytest.fail("torch multiplied"))
    monkeypatch.setattr(functional, "linear", lambda *given: pytest.fail("torch multiplied"))
    x, weight, update = random(40, 64), random(48, 64), LowRank(random(40, 4), random(48, 4))
    assert widened(x)
    assert linear(x, weight, None, update).isfinite().all()
    assert linear_input_grad(random(40, 48), weight).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_other_dtypes_are_not_widened(dtype: torch.dtype) -> None:
    assert not widened(torch.zeros(2, 2, dtype=dtype))
