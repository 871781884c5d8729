"""SwiGLU, GeGLU and rotary positions in Triton against their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu import elementwise
from veneer.model.rope import turn

pytestmark = pytest.mark.usefixtures("seed")

BOUND = 1e-6


def off(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected number; one number alone may happen to be near zero."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(0.5))


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (7, 1000), (5, 4096), (2047,), (2049,)])
def test_swiglu_and_its_gradients(shape: tuple[int, ...]) -> None:
    gate, up, grad = torch.randn(shape) * 5, torch.randn(shape), torch.randn(shape)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    expected = functional.silu(leaves[0]) * leaves[1]
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())
    assert off(elementwise.swiglu_forward(gate, up), expected.detach()) < BOUND
    for found, wanted in zip(elementwise.swiglu_backward(gate, up, grad), expected_grads, strict=True):
        assert off(found, wanted) < BOUND


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (7, 1000), (2047,), (2049,)])
def test_geglu_and_its_gradients(shape: tuple[int, ...]) -> None:
    gate, up, grad = torch.randn(shape) * 5, torch.randn(shape), torch.randn(shape)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    expected = functional.gelu(leaves[0], approximate="tanh") * leaves[1]
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())
    assert off(elementwise.geglu_forward(gate, up), expected.detach()) < BOUND
    for found, wanted in zip(elementwise.geglu_backward(gate, up, grad), expected_grads, strict=True):
        # torch's own gelu in float32 is off by up to 7e-7. A sigmoid's argument is twice that of the tanh, and so is
        # its rounding.
        assert off(found, wanted) < 2 * BOUND


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_geglu_far_from_zero() -> None:
    gate = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4])
    ones = torch.ones_like(gate)
    assert elementwise.geglu_forward(gate, ones).tolist() == pytest.approx([0.0, 0.0, 0.0, 40.0, 1e4], abs=1e-30)
    grad_gate, grad_up = elementwise.geglu_backward(gate, ones, ones)
    assert grad_gate.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-30)
    assert grad_up.tolist() == pytest.approx([0.0, 0.0, 0.0, 40.0, 1e4], abs=1e-30)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_gates_far_from_zero() -> None:
    gate = torch.tensor([-1e4, -200.0, -87.5, 0.0, 87.5, 200.0, 1e4])
    ones = torch.ones_like(gate)
    wanted = [0.0, 0.0, 0.0, 0.0, 87.5, 200.0, 1e4]
    assert elementwise.swiglu_forward(gate, ones).tolist() == pytest.approx(wanted, abs=1e-30)
    grad_gate, grad_up = elementwise.swiglu_backward(gate, ones, ones)
    assert grad_gate.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0], abs=1e-30)
    assert grad_up.tolist() == pytest.approx(wanted, abs=1e-30)


def test_swiglu_in_float16_is_rounded_where_torch_rounds() -> None:
    gate, up = (torch.randn(3000) * 4).half(), torch.randn(3000).half()
    found, expected = elementwise.swiglu_forward(gate, up), functional.silu(gate) * up
    assert float((found != expected).double().mean()) < 0.01
    torch.testing.assert_close(found, expected, rtol=2**-9, atol=1e-6)


@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (9, 64), (3, 80), (32, 128), (5, 24), (40, 96), (2, 4096)])
@pytest.mark.parametrize("tokens", [1, 11])
def test_turning_and_its_gradient(tokens: int, heads: int, dim: int) -> None:
    x, angles = torch.randn(tokens, heads, dim), torch.randn(tokens, dim // 2) * 10
    cosine, sine = angles.cos(), angles.sin()
    leaf = x.double().requires_grad_()
    expected = turn(leaf, cosine.double(), sine.double())
    grad = torch.randn(x.shape)
    (expected_grad,) = torch.autograd.grad(expected, leaf, grad.double())
    assert off(elementwise.rotate(x, cosine, sine, 1.0), expected.detach()) < BOUND
    assert off(elementwise.rotate(grad, cosine, sine, -1.0), expected_grad) < BOUND


def test_turning_equals_torch_bit_for_bit() -> None:
    angles = torch.randn(5, 12)
    for x in (torch.randn(5, 3, 24), torch.randn(5, 3, 24).half()):
        found = elementwise.rotate(x, angles.cos(), angles.sin(), 1.0)
        assert torch.equal(found, turn(x, angles.cos(), angles.sin()))
