"""QuantLinear: values, gradients, what it keeps, and what it refuses."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tensors import assert_same_tensors
from veneer.errors import ConfigError, ModelError
from veneer.native.stored import NestedScales
from veneer.quant.codes import CodeBook, dequantize_4bit, quantize_4bit
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.nested import nested_scales


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(out: int = 24, into: int = 40, *, bias: bool = True, **settings: Any) -> QuantLinear:
    return QuantLinear.from_weight(normal(out, into), normal(out, seed=1) if bias else None, QuantConfig(**settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_decoded_weight(
    lead: tuple[int, ...], double_quant: bool, dtype: torch.dtype, bias: bool
) -> None:
    layer = make(bias=bias, double_quant=double_quant)
    x = normal(*lead, 40, seed=2, dtype=dtype).requires_grad_()
    y = layer(x)
    grad = normal(*lead, 24, seed=3, dtype=dtype)
    y.backward(grad)
    assert y.dtype == dtype
    assert y.shape == (*lead, 24)
    assert x.grad is not None
    assert x.grad.dtype == dtype
    weight = layer.dequantize(dtype).double()
    expected = x.detach().double() @ weight.t()
    if layer.bias is not None:
        expected += layer.bias.to(dtype).double()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), grad.double() @ weight, rtol=tolerance, atol=2 * tolerance)
    with torch.no_grad():
        assert torch.equal(layer(x), y)


def test_float64_passes_the_gradient_check() -> None:
    layer = make(6, 5)
    x = normal(3, 5, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_weight_is_the_quantised_one() -> None:
    weight = normal(24, 40)
    layer = QuantLinear.from_weight(weight, config=QuantConfig(double_quant=False, block=32))
    codes, absmax = quantize_4bit(weight, 32)
    assert torch.equal(layer.codes, codes)
    assert torch.equal(layer.absmax, absmax)
    expected = dequantize_4bit(codes, absmax, (24, 40), torch.bfloat16, block=32)
    assert torch.equal(layer.dequantize(torch.bfloat16), expected)
    out = torch.empty(24, 40, dtype=torch.bfloat16)
    assert layer.dequantize(torch.bfloat16, out) is out
    assert torch.equal(out, expected)


def test_it_is_frozen_and_accounts_for_its_bytes() -> None:
    layer = make(128, 256, bias=False)
    assert not list(layer.parameters())
    blocks = 128 * 256 // 64
    assert layer.nbytes == 128 * 256 // 2 + blocks + 4 * (blocks // 256) + 4
    assert make(128, 256, bias=True, double_quant=False).nbytes == 128 * 256 // 2 + 4 * blocks + 4 * 128


def test_nothing_is_kept_between_forward_and_backward() -> None:
    layer = make(200, 300)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = normal(4, 300).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert not saved
    gc.collect()
    shape = torch.Size((200, 300))
    alive = [o for o in gc.get_objects() if type(o) is Tensor and o.shape == shape]
    assert not alive
    y.sum().backward()
    assert x.grad is not None


def test_no_graph_for_input_without_gradient() -> None:
    assert not make()(normal(2, 40)).requires_grad


@pytest.mark.parametrize("double_quant", [True, False])
def test_state_dict_round_trip(double_quant: bool) -> None:
    source = make(double_quant=double_quant)
    state = source.state_dict()
    scales = {"absmax_codes", "nested_absmax", "nested_offset"} if double_quant else {"absmax"}
    assert set(state) == {"codes", "bias"} | scales
    target = QuantLinear.from_weight(normal(24, 40, seed=9), torch.zeros(24), QuantConfig(double_quant=double_quant))
    target.load_state_dict(state)
    assert torch.equal(target.dequantize(torch.float32), source.dequantize(torch.float32))
    assert torch.equal(target(normal(2, 40)), source(normal(2, 40)))


@pytest.mark.parametrize("double_quant", [True, False])
def test_casting_the_module_does_not_touch_the_weight(double_quant: bool) -> None:
    layer = make(double_quant=double_quant)
    before = layer.dequantize(torch.float32)
    for cast in (layer.to(torch.bfloat16), layer.half(), layer.double(), layer.bfloat16()):
        assert torch.equal(cast.dequantize(torch.float32), before)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert layer.to("meta").codes.device.type == "meta"


def test_sources_are_neither_changed_nor_shared() -> None:
    weight, bias = normal(24, 40), normal(24, seed=1)
    layer = QuantLinear.from_weight(torch.nn.Parameter(weight.clone()), bias)
    bias.zero_()
    assert layer.bias is not None
    assert layer.bias.abs().sum() > 0
    assert not any(buffer.requires_grad for buffer in layer.buffers())


def test_training_and_evaluation_are_the_same_function() -> None:
    layer, x = make(), normal(3, 40)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    y = layer.train()(x)
    assert torch.equal(layer.eval()(x), y)
    assert torch.equal(layer.train()(x), y)
    assert_same_tensors(layer.state_dict(), before)


def test_config_is_validated() -> None:
    assert QuantConfig() == QuantConfig(block=64, double_quant=True)
    for block in (0, 16, 48, 8192, -64):
        with pytest.raises(ConfigError, match=str(block)):
            QuantConfig(block=block)


def packed(
    shape: tuple[int, int], codes: Tensor, scales: Tensor | NestedScales, bias: Tensor | None = None
) -> QuantLinear:
    return QuantLinear(shape, codes, scales, bias, block=64, codebook=CodeBook.NF4)


def test_tensors_that_do_not_fit_are_refused() -> None:
    codes, absmax = quantize_4bit(normal(8, 16))
    with pytest.raises(ModelError, match="codes"):
        packed((8, 17), codes, absmax)
    with pytest.raises(ModelError, match="scales"):
        packed((8, 16), codes, absmax.double())
    with pytest.raises(ModelError, match="nested offset"):
        packed((8, 16), codes, nested_scales(codes[:2], absmax[:1], torch.zeros(1)))
    with pytest.raises(ModelError, match="bias"):
        packed((8, 16), codes, absmax, torch.zeros(16))
    with pytest.raises(ModelError, match="two dimensions"):
        QuantLinear.from_weight(normal(8))


def test_repr_names_the_format() -> None:
    assert "nf4, block=64, double_quant=True" in repr(make())
