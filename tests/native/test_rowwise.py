"""Norms, gated products and rotations of every compiled variant that runs here, against formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from veneer.native.functions import Kernels

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", [16, 48, 63, 576])
def test_rms_norm_and_its_gradient(native: Kernels, dtype: torch.dtype, dim: int) -> None:
    x, grad, weight = torch.randn(7, dim).to(dtype), torch.randn(7, dim).to(dtype), torch.rand(dim) + 0.5
    leaf = x.double().requires_grad_()
    expected = leaf * (leaf.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    expected.backward(grad.double())
    y, rstd = native.rowwise.rms_norm_forward(x, weight, 1e-5)
    assert leaf.grad is not None
    torch.testing.assert_close(y.double(), expected.detach(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    found = native.rowwise.rms_norm_backward(x, weight, rstd, grad)
    torch.testing.assert_close(found.double(), leaf.grad, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", [16, 48, 63, 576])
def test_a_sum_of_rows_its_norm_and_their_gradient(native: Kernels, dtype: torch.dtype, dim: int) -> None:
    x, delta, grad, past = (torch.randn(7, dim).to(dtype) for _ in range(4))
    weight = torch.rand(dim) + 0.5
    total, y, rstd = native.rowwise.add_rms_norm_forward(x, delta, weight, 1e-5)
    assert torch.equal(total, x + delta)
    alone, statistic = native.rowwise.rms_norm_forward(total, weight, 1e-5)
    assert torch.equal(y, alone)
    assert torch.equal(rstd, statistic)
    expected = native.rowwise.rms_norm_backward(total, weight, rstd, grad) + past
    assert torch.equal(native.rowwise.add_rms_norm_backward(total, weight, rstd, grad, past), expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "dim"), [(1, 16), (64, 63), (200, 48), (131, 576)])
def test_scaled_columns_are_torchs_to_the_bit_and_their_gradients_a_formulas(
    native: Kernels, dtype: torch.dtype, rows: int, dim: int
) -> None:
    x, grad, scales = torch.randn(rows, dim).to(dtype), torch.randn(rows, dim).to(dtype), torch.rand(dim) + 0.5
    assert torch.equal(native.rowwise.scale_columns_forward(x, scales), (x * scales).to(dtype))
    found, found_scales = native.rowwise.scale_columns_backward(x, scales, grad)
    assert torch.equal(found, (grad * scales).to(dtype))
    terms = grad.double() * x.double()
    assert ((found_scales.double() - terms.sum(0)).abs() <= 1e-6 * terms.abs().sum(0)).all()


def test_gradients_of_scales_do_not_depend_on_the_number_of_threads(native: Kernels) -> None:
    x, grad, scales = torch.randn(300, 70), torch.randn(300, 70), torch.rand(70)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(native.rowwise.scale_columns_backward(x, scales, grad)[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, found[0]) for other in found)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_swiglu_and_its_gradients_also_far_from_zero(native: Kernels, dtype: torch.dtype) -> None:
    gate = (torch.randn(3000) * 8).to(dtype)
    gate[:4] = torch.tensor([-200.0, 200.0, 0.0, -87.5])
    up, grad = torch.randn(3000).to(dtype), torch.randn(3000).to(dtype)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    expected = torch.nn.functional.silu(leaves[0]) * leaves[1]
    expected.backward(grad.double())
    found = (native.rowwise.swiglu_forward(gate, up), *native.rowwise.swiglu_backward(gate, up, grad))
    for got, wanted in zip(found, (expected.detach(), leaves[0].grad, leaves[1].grad), strict=True):
        assert wanted is not None
        torch.testing.assert_close(got.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_turning_forth_and_back_is_nothing(native: Kernels, dtype: torch.dtype) -> None:
    x = torch.randn(11, 3, 32).to(dtype)
    angles = torch.randn(11, 16)
    turned = native.rowwise.rotate(x, angles.cos(), angles.sin(), 1.0)
    pairs = torch.complex(x[..., :16].double(), x[..., 16:].double())
    expected = pairs * torch.polar(torch.ones(11, 1, 16).double(), angles[:, None].double())
    torch.testing.assert_close(turned[..., :16].double(), expected.real, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(turned[..., 16:].double(), expected.imag, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    back = native.rowwise.rotate(turned, angles.cos(), angles.sin(), -1.0)
    torch.testing.assert_close(back, x, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_not_a_number_stays_visible(native: Kernels, dtype: torch.dtype) -> None:
    x = torch.ones(4, 64).to(dtype)
    x[2, 5] = math.nan
    assert native.rowwise.swiglu_forward(x, torch.ones_like(x)).isnan().sum() == 1
    assert native.rowwise.rms_norm_forward(x, torch.ones(64), 1e-5)[0].isnan().all(1).tolist() == [
        False,
        False,
        True,
        False,
    ]
    found = native.rowwise.rms_norm_backward(torch.ones_like(x), torch.ones(64), torch.ones(4), x)
    assert found.isnan().all(1).tolist() == [False, False, True, False]
