"""RMS norm in Triton against its formula in float64, and against the torch path that stands beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from veneer.gpu import norm

pytestmark = pytest.mark.usefixtures("seed")

DIMS = [64, 65, 100, 576, 1000, 2048, 4096]
BOUND = 1e-6


def off(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected number."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("dim", DIMS)
def test_norm_and_its_gradient(dim: int, rows: int, eps: float) -> None:
    x, grad, weight = torch.randn(rows, dim) * 3, torch.randn(rows, dim), torch.rand(dim) + 0.5
    leaf = x.double().requires_grad_()
    expected = formula(leaf, weight.double(), eps)
    (expected_grad,) = torch.autograd.grad(expected, leaf, grad.double())
    y, rstd = norm.rms_norm_forward(x, weight, eps)
    assert off(y, expected.detach()) < BOUND
    assert off(norm.rms_norm_backward(x, weight, rstd, grad), expected_grad) < BOUND


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("dim", DIMS)
def test_norm_of_a_sum_and_its_gradient(dim: int, rows: int) -> None:
    x, delta, grad, grad_residual = (torch.randn(rows, dim) for _ in range(4))
    weight = torch.rand(dim) + 0.5
    leaf = x.double().requires_grad_()
    total = leaf + delta.double()
    expected = formula(total, weight.double(), 1e-5)
    (expected_grad,) = torch.autograd.grad((expected, total), leaf, (grad.double(), grad_residual.double()))
    residual, y, rstd = norm.add_rms_norm_forward(x, delta, weight, 1e-5)
    assert torch.equal(residual, x + delta)
    assert off(y, expected.detach()) < BOUND
    assert off(norm.add_rms_norm_backward(residual, weight, rstd, grad, grad_residual), expected_grad) < BOUND


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dim", DIMS)
def test_wide_norm_and_its_gradient(dim: int, offset: float) -> None:
    x, grad, weight = torch.randn(5, dim) * 3, torch.randn(5, dim), torch.rand(dim)
    leaf = x.double().requires_grad_()
    expected = formula(leaf, weight.double() + offset, 1e-6)
    (expected_grad,) = torch.autograd.grad(expected, leaf, grad.double())
    y, rstd = norm.wide_norm_forward(x, weight, 1e-6, offset)
    assert off(y, expected.detach()) < BOUND
    assert off(norm.wide_norm_backward(x, weight, rstd, grad, offset), expected_grad) < BOUND


def test_the_wide_norm_rounds_once() -> None:
    x, weight = torch.randn(9, 300).half(), torch.rand(300)
    y, _ = norm.wide_norm_forward(x, weight, 1e-5, 1.0)
    wide = x.float()
    expected = (wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight + 1.0)).half()
    assert float((y != expected).double().mean()) < 0.01
    torch.testing.assert_close(y, expected, rtol=2**-10, atol=1e-7)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_float16_is_rounded_where_torch_rounds(stored: torch.dtype) -> None:
    """rstd may differ in its last bit, which turns a rounding now and then; most values are the same to the bit.

    What is one unit in the last place apart after the first rounding can be two after the second.
    """
    x, delta = torch.randn(9, 300).half(), torch.randn(9, 300).half()
    weight = (torch.rand(300) + 0.5).to(stored)
    residual, y, _ = norm.add_rms_norm_forward(x, delta, weight, 1e-5)
    assert torch.equal(residual, x + delta)
    wide = residual.float()
    expected = (wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).half() * weight.half()
    assert float((y != expected).double().mean()) < 0.01
    torch.testing.assert_close(y, expected, rtol=2**-9, atol=1e-7)


def test_zero_rows_stay_zero_and_what_is_not_a_number_stays_visible() -> None:
    x = torch.zeros(3, 70)
    x[2, 5] = torch.nan
    y, rstd = norm.rms_norm_forward(x, torch.ones(70), 1e-5)
    assert not y[:2].any()
    assert y[2].isnan().all()
    assert norm.rms_norm_backward(x, torch.ones(70), rstd, torch.ones(3, 70))[:2].isfinite().all()
