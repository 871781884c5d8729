"""The fused blocks: plain formulas, exact gradients, and the reference model's rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from helpers.models.tiny_models import BACKENDS, largest_difference, use_backend
from veneer.model.fused import rms_norm, swiglu


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_norm_passes_the_gradient_check(eps: float) -> None:
    x, weight = randn(5, 7).requires_grad_(), randn(7, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, eps), (x, weight))
    assert torch.autograd.gradcheck(lambda a: rms_norm(a, weight.detach(), eps), (x,))
    assert torch.autograd.gradcheck(lambda b: rms_norm(x.detach(), b, eps), (weight,))


def test_swiglu_passes_the_gradient_check() -> None:
    gate, up = (4 * randn(5, 7)).requires_grad_(), randn(5, 7, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(swiglu, (gate, up))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norm_equals_the_formula(scale: float) -> None:
    x, weight = scale * randn(33, 64), randn(64, seed=1)
    expected = plain_norm(x, weight, 1e-5)
    assert largest_difference(rms_norm(x, weight, 1e-5), expected) < 1e-13
    assert largest_difference(rms_norm(x.float(), weight.float(), 1e-5), expected) < 1e-5


def test_swiglu_equals_the_formula() -> None:
    gate, up = 4 * randn(33, 64), randn(33, 64, seed=1)
    expected = gate / (1 + torch.exp(-gate)) * up
    assert largest_difference(swiglu(gate, up), expected) < 1e-13
    assert largest_difference(swiglu(gate.float(), up.float()), expected) < 1e-5


def test_extreme_gates_overflow_nothing() -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4]).requires_grad_()
    h = swiglu(gate, torch.ones(5))
    assert h.tolist() == pytest.approx([0.0, 0.0, 0.0, 100.0, 1e4], abs=1e-30)
    h.sum().backward()
    assert gate.grad is not None
    assert gate.grad.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-30)


def test_zero_rows_stay_zero() -> None:
    x = torch.zeros(3, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8), 1e-5)
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def assert_equal_but_for_sums(ours: Tensor, theirs: Tensor, backend: str) -> None:
    """Bit for bit in torch's operations; the compiled kernels add otherwise, which may turn a rounding."""
    assert ours.dtype == theirs.dtype
    if backend == "torch" or ours.dtype == torch.float16:
        assert torch.equal(ours, theirs)
        return
    off = (ours.double() - theirs.double()).abs()
    # A bfloat16 value is rounded up to three times on its way; a float32 one carries the error of a sum of a row.
    units = 3 if ours.dtype == torch.bfloat16 else 8
    assert bool((off <= units * torch.finfo(ours.dtype).eps * theirs.double().abs()).all())
    if ours.dtype == torch.bfloat16:
        assert float((off > 0).double().mean()) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 576, 1000])
def test_norm_equals_transformers_bit_for_bit(dtype: torch.dtype, dim: int, backend: str) -> None:
    theirs = LlamaRMSNorm(dim, eps=1e-5).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(1 + 0.2 * randn(dim, seed=dim))
    for scale in (0.01, 1.0, 40.0):
        x = randn(50, dim, seed=7, dtype=dtype) * scale
        assert_equal_but_for_sums(rms_norm(x, theirs.weight, 1e-5), theirs(x), backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_swiglu_equals_transformers_bit_for_bit(dtype: torch.dtype, backend: str) -> None:
    gate, up = randn(50, 96, dtype=dtype) * 5, randn(50, 96, seed=1, dtype=dtype)
    assert_equal_but_for_sums(swiglu(gate, up), functional.silu(gate) * up, backend)


def test_gradients_in_bfloat16_are_those_of_the_formula_but_for_rounding() -> None:
    x, weight, gate, up = (randn(*s, seed=i) for i, s in enumerate([(40, 64), (64,), (40, 64), (40, 64)]))
    dy = randn(40, 64, seed=9)
    for function, inputs in ((lambda a, b: rms_norm(a, b, 1e-5), (x, weight)), (swiglu, (gate, up))):
        wide = [tensor.bfloat16().double().requires_grad_() for tensor in inputs]
        narrow = [tensor.bfloat16().requires_grad_() for tensor in inputs]
        expected = torch.autograd.grad((function(*wide) * dy.bfloat16().double()).sum(), wide)
        ours = torch.autograd.grad(function(*narrow), narrow, dy.bfloat16())
        for a, b in zip(ours, expected, strict=True):
            assert a.dtype == torch.bfloat16
            assert largest_difference(a, b) < 3 * 2**-8 * float(b.abs().max())


def test_a_float32_weight_beside_bfloat16_activations_gets_a_float32_gradient() -> None:
    x, weight = randn(40, 64, dtype=torch.bfloat16), randn(64, seed=1, dtype=torch.float32).requires_grad_()
    y = rms_norm(x, weight, 1e-5)
    assert y.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(y, weight, torch.ones_like(y))
    expected = (x.double() / torch.sqrt((x.double() ** 2).mean(-1, keepdim=True) + 1e-5)).sum(0)
    assert grad.dtype == torch.float32
    assert largest_difference(grad, expected) < 1e-4
