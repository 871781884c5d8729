"""RowwiseLinear: bit for bit LLM.int8's codes as transformers and bitsandbytes make them, and a base linear."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from veneer.errors import ModelError
from veneer.quant import rowwise as module
from veneer.quant.packed import decoded_weights
from veneer.quant.rowwise import RowwiseLinear, dequantize_rowwise, quantize_rowwise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # bitsandbytes warns about optional kernels and deprecated torch calls
    bnb = pytest.importorskip("bitsandbytes")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 1), (3, 5), (24, 40), (7, 4097), (300, 1000))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05).to(dtype)


def theirs(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What a Linear8bitLt stores of `weight`."""
    layer = bnb.nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    state = layer.to("cpu").state_dict()
    assert int(state["weight_format"]) == 0
    return state["weight"], state["SCB"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_and_scales_are_those_of_linear8bitlt(shape: tuple[int, int], dtype: torch.dtype) -> None:
    for seed, size in ((0, 1.0), (1, 1e-4), (2, 1e5)):
        weight = normal(*shape, seed=seed, dtype=torch.float32).mul(size).clamp(-6e4, 6e4).to(dtype)
        codes, scales = quantize_rowwise(weight)
        their_codes, their_scales = theirs(weight)
        assert codes.dtype == their_codes.dtype == torch.int8
        assert torch.equal(codes, their_codes)
        assert torch.equal(scales.view(torch.int32), their_scales.view(torch.int32))


def test_every_float16_value_of_a_row() -> None:
    every = torch.arange(-32768, 32768).to(torch.int16).view(torch.float16)
    every = every[every.isfinite()]
    for largest in (1.0, 3.0, 65504.0, 6e-8):
        row = every[every.abs() <= largest].view(1, -1)
        assert torch.equal(quantize_rowwise(row)[0], theirs(row)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_is_bitsandbytes_to_the_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    codes, scales = quantize_rowwise(normal(*shape))
    expected = bnb.functional.int8_vectorwise_dequant(codes, scales)
    assert torch.equal(dequantize_rowwise(codes, scales, dtype), expected.to(dtype))
    out = torch.full(shape, 7.0, dtype=dtype)
    assert dequantize_rowwise(codes, scales, dtype, out) is out
    assert torch.equal(out, expected.to(dtype))


def test_the_error_is_at_most_half_a_step() -> None:
    weight = normal(50, 300, dtype=torch.float16).float()
    codes, scales = quantize_rowwise(weight)
    error = (dequantize_rowwise(codes, scales, torch.float32) - weight).abs()
    assert bool((error <= 0.5001 * scales[:, None] / 127).all())
    assert int(codes.abs().amax()) == 127


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(50, 70)
    whole = quantize_rowwise(weight)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * 70)
    parts = quantize_rowwise(weight)
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])
    expected = bnb.functional.int8_vectorwise_dequant(*whole)
    assert torch.equal(dequantize_rowwise(*parts, torch.float32), expected)


def test_a_row_of_zeros_is_zero() -> None:
    weight = normal(4, 8)
    weight[2] = 0
    codes, scales = quantize_rowwise(weight)
    assert not codes[2].any()
    assert scales[2] == 0
    assert not dequantize_rowwise(codes, scales, torch.float32)[2].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 7e4])
def test_what_is_not_finite_in_float16_is_refused_and_counted(bad: float) -> None:
    weight = normal(4, 8)
    weight[1, 3] = weight[2, 5] = bad
    with pytest.raises(ModelError, match=r"2 of 32 weights .* float16"):
        quantize_rowwise(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_base_linear(dtype: torch.dtype, bias: bool) -> None:
    layer = RowwiseLinear.from_weight(normal(24, 40), normal(24, seed=1) if bias else None)
    assert (layer.out_features, layer.in_features) == (24, 40)
    assert not list(layer.parameters())
    assert layer.nbytes == 24 * 40 + 4 * 24 + (4 * 24 if bias else 0)
    x = normal(5, 40, seed=2, dtype=dtype).requires_grad_()
    grad = normal(5, 24, seed=3, dtype=dtype)
    y = layer(x)
    y.backward(grad)
    weight = layer.dequantize(dtype).double()
    expected = x.detach().double() @ weight.t()
    if layer.bias is not None:
        expected += layer.bias.to(dtype).double()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert x.grad is not None
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), grad.double() @ weight, rtol=tolerance, atol=tolerance)


def test_casting_the_module_does_not_touch_the_weight() -> None:
    layer = RowwiseLinear.from_weight(normal(24, 40), normal(24, seed=1))
    before = layer.dequantize(torch.float32)
    for cast in (layer.to(torch.bfloat16), layer.half(), layer.double()):
        assert torch.equal(cast.dequantize(torch.float32), before)
        assert cast.SCB.dtype == torch.float32
        assert cast.weight.dtype == torch.int8
    state = layer.state_dict()
    assert set(state) == {"weight", "SCB", "bias"}
    other = RowwiseLinear.from_weight(normal(24, 40, seed=5), normal(24))
    other.load_state_dict(state)
    assert torch.equal(other.dequantize(torch.float32), before)


def test_generation_may_keep_its_decoded_weight() -> None:
    layer = RowwiseLinear.from_weight(normal(24, 40))
    with decoded_weights([layer], torch.float32, 10**6):
        assert layer.dequantize(torch.float32) is layer.dequantize(torch.float32)
    assert layer.dequantize(torch.float32) is not layer.dequantize(torch.float32)


def test_tensors_that_do_not_fit_are_refused() -> None:
    codes, scales = quantize_rowwise(normal(8, 16))
    with pytest.raises(ModelError, match="scales"):
        RowwiseLinear(codes, scales[:-1])
    with pytest.raises(ModelError, match="codes"):
        RowwiseLinear(codes.short(), scales)
    with pytest.raises(ModelError, match="bias"):
        RowwiseLinear(codes, scales, torch.zeros(16))
    with pytest.raises(ModelError, match="two dimensions"):
        quantize_rowwise(normal(8))
    with pytest.raises(ModelError, match="float64"):
        quantize_rowwise(normal(8, 8).double())
    with pytest.raises(ModelError, match="buffer"):
        dequantize_rowwise(codes, scales, torch.float32, torch.zeros(16, 8))
