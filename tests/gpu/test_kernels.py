"""The model's own functions when they choose Triton: same results and gradients as torch's operations beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from veneer.gpu import dispatch
from veneer.model.fused import add_rms_norm, geglu, rms_norm, swiglu, wide_norm
from veneer.model.rope import apply_rotation
from veneer.quant import codes
from veneer.quant.codes import dequantize_4bit, quantize_4bit, quantize_nested

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let Triton take float32 tensors of the CPU, as its interpreter can; the names of the kernels that ran."""
    ran: list[str] = []
    real = dispatch._triton()

    class Noting:
        def __getattr__(self, name: str) -> object:
            ran.append(name)
            return getattr(real, name)

    monkeypatch.setattr(dispatch, "usable", lambda *tensors: all(t.dtype == torch.float32 for t in tensors))
    monkeypatch.setattr(dispatch, "_triton", Noting)
    return ran


def gradients(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, leaves, grads)]


def assert_same(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], outputs: int = 1) -> None:
    """In float32 by Triton, and in float64 by torch, which Triton does not take."""
    grads = [torch.randn_like(inputs[0]) for _ in range(outputs)]
    found = gradients(function, inputs, grads)
    expected = gradients(function, [x.double() for x in inputs], [g.double() for g in grads])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-6)


def test_norm(chosen: list[str]) -> None:
    weight = torch.rand(96) + 0.5
    assert_same(lambda x: (rms_norm(x, weight, 1e-5),), [torch.randn(7, 96)])
    assert chosen == ["rms_norm_forward", "rms_norm_backward"]


def test_norm_of_a_sum(chosen: list[str]) -> None:
    weight = torch.rand(96) + 0.5
    assert_same(lambda x, d: add_rms_norm(x, d, weight, 1e-5), [torch.randn(7, 96), torch.randn(7, 96)], outputs=2)
    assert chosen == ["add_rms_norm_forward", "add_rms_norm_backward"]


def test_a_weight_that_trains_gets_its_gradient_from_torch(chosen: list[str]) -> None:
    inputs = [torch.randn(96, 96), torch.rand(96) + 0.5]
    assert_same(lambda x, w: (rms_norm(x, w, 1e-5),), inputs)
    assert_same(lambda x, w: add_rms_norm(x, x * 0.5, w, 1e-5), inputs, outputs=2)
    assert chosen == ["rms_norm_forward", "add_rms_norm_forward"]


def test_swiglu(chosen: list[str]) -> None:
    assert_same(lambda g, u: (swiglu(g, u),), [torch.randn(7, 200) * 4, torch.randn(7, 200)])
    assert chosen == ["swiglu_forward", "swiglu_backward"]


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_geglu(chosen: list[str]) -> None:
    assert_same(lambda g, u: (geglu(g, u),), [torch.randn(7, 200) * 4, torch.randn(7, 200)])
    assert chosen == ["geglu_forward", "geglu_backward"]


@pytest.mark.parametrize("shape", [(7, 96), (7, 3, 32)])
def test_norm_around_one(shape: tuple[int, ...], chosen: list[str]) -> None:
    weight = torch.rand(shape[-1])
    assert_same(lambda x: (wide_norm(x, weight, None, 1e-5, offset=1.0),), [torch.randn(shape)])
    assert chosen == ["wide_norm_forward", "wide_norm_backward"]


def test_norms_that_are_centred_or_train_are_left_to_torch(chosen: list[str]) -> None:
    inputs = [torch.randn(96, 96), torch.rand(96) + 0.5]
    assert_same(lambda x: (wide_norm(x, torch.ones(96), None, 1e-5, centred=True),), inputs[:1])
    assert_same(lambda x: (wide_norm(x.view(96, 3, 32), torch.ones(3, 32), None, 1e-5).flatten(1),), inputs[:1])
    assert chosen == []
    assert_same(lambda x, w: (wide_norm(x, w, None, 1e-5),), inputs)
    assert chosen == ["wide_norm_forward"]


def test_rotation(chosen: list[str]) -> None:
    angles = torch.randn(7, 16)
    cosine, sine = angles.cos(), angles.sin()
    assert_same(lambda x: (apply_rotation(x, cosine, sine),), [torch.randn(7, 3, 32)])
    assert chosen == ["rotate", "rotate"]


def test_angles_of_another_dtype_are_left_to_torch(chosen: list[str]) -> None:
    angles = torch.randn(7, 16).double()
    apply_rotation(torch.randn(7, 3, 32), angles.cos(), angles.sin())
    assert chosen == []


@pytest.mark.parametrize("nested", [False, True])
def test_decoding(nested: bool, chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 83)
    packed, absmax = quantize_4bit(weight)
    scales = quantize_nested(absmax) if nested else absmax
    found = dequantize_4bit(packed, scales, weight.shape, torch.float32)
    assert chosen == ["dequantize_4bit_nested" if nested else "dequantize_4bit"]
    monkeypatch.setattr(codes, "kernels_for", lambda *tensors: None)
    assert torch.equal(found, dequantize_4bit(packed, scales, weight.shape, torch.float32))
