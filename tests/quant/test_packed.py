from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny_models import largest_difference
from veneer.errors import ModelError
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.packed import PackedLinear, decoded_weights, expect
from veneer.quant.rowwise import RowwiseLinear

KINDS = {
    "nf4": lambda weight, bias: QuantLinear.from_weight(weight, bias),
    "nf4, plain scales": lambda weight, bias: QuantLinear.from_weight(weight, bias, QuantConfig(double_quant=False)),
    "int8": RowwiseLinear.from_weight,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind: str, *, bias: bool = False, seed: int = 0) -> PackedLinear:
    generator = torch.Generator().manual_seed(seed)
    weight, own = torch.randn(48, 80, generator=generator), torch.randn(48, generator=generator)
    return KINDS[kind](weight, own if bias else None)


@every_kind
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_the_input_gradient_are_those_of_the_decoded_weight(kind: str, bias: bool) -> None:
    layer = layer_of(kind, bias=bias)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 80, generator=generator).requires_grad_()
    grad = torch.randn(5, 48, generator=generator)
    weight = layer.dequantize(torch.float32)
    expected = nn.functional.linear(x, weight, layer.bias)
    assert largest_difference(layer(x), expected) < 1e-5
    (found,) = torch.autograd.grad(layer(x), x, grad)
    assert largest_difference(found, grad @ weight) < 1e-5
    assert list(layer.parameters()) == []


@every_kind
def test_a_buffer_that_is_given_is_filled_with_the_same_weight(kind: str) -> None:
    layer = layer_of(kind)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.full((48, 80), torch.nan, dtype=dtype)
        assert layer.dequantize(dtype, out) is out
        assert torch.equal(out, layer.dequantize(dtype))
        assert torch.equal(layer.dequantize(torch.float32).to(dtype), out) or dtype is torch.float32


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_moving_a_layer_to_another_dtype_changes_no_weight(kind: str, dtype: torch.dtype) -> None:
    layer, other = layer_of(kind, bias=True), layer_of(kind, bias=True).to(dtype)
    assert torch.equal(other.dequantize(torch.float32), layer.dequantize(torch.float32))
    assert other.bias is not None
    assert other.bias.dtype is dtype
    assert (other.in_features, other.out_features) == (80, 48)


@every_kind
def test_bytes_are_those_of_all_buffers(kind: str) -> None:
    layer = layer_of(kind, bias=True)
    assert layer.nbytes == sum(buffer.nbytes for buffer in layer.buffers())
    assert layer.nbytes < (0.35 if kind != "int8" else 0.6) * 4 * 48 * 80


def test_within_the_block_weights_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [layer_of(kind) for kind in KINDS]
    decoded: list[PackedLinear] = []
    for kind in (QuantLinear, RowwiseLinear):
        real = kind.decode

        def counting(self: PackedLinear, dtype: torch.dtype, out: Tensor | None, real: object = real) -> Tensor:
            decoded.append(self)
            assert callable(real)
            made: Tensor = real(self, dtype, out)
            return made

        monkeypatch.setattr(kind, "decode", counting)
    expected = [layer.dequantize(torch.bfloat16) for layer in layers]
    decoded.clear()
    with decoded_weights([*layers, nn.Linear(2, 2)], torch.bfloat16, limit=10**6):
        for _ in range(3):
            for layer, weight in zip(layers, expected, strict=True):
                assert torch.equal(layer.dequantize(torch.bfloat16), weight)
        assert len(decoded) == len(layers)
        layers[0].dequantize(torch.float32)
        assert len(decoded) == len(layers) + 1, "another dtype is another weight"
    decoded.clear()
    layers[0].dequantize(torch.bfloat16)
    assert len(decoded) == 1


def test_weights_that_are_together_too_large_are_not_kept() -> None:
    layer = layer_of("nf4")
    with decoded_weights([layer], torch.bfloat16, limit=2 * 48 * 80 - 1):
        assert layer._decoded is None
    with decoded_weights([layer], torch.bfloat16, limit=2 * 48 * 80):
        assert layer._decoded is not None
    assert layer._decoded is None


def test_parts_that_do_not_fit_are_refused_with_both_shapes() -> None:
    weight = torch.randn(48, 80)
    with pytest.raises(ModelError, match=r"bias has shape \[47\]; it must have shape \[48\]"):
        QuantLinear.from_weight(weight, torch.zeros(47))
    expect("codes", torch.zeros(3, dtype=torch.uint8), torch.uint8, (3,))
    with pytest.raises(ModelError, match=r"torch.int8 of shape \[3\]; they must be torch.uint8 of shape \[4\]"):
        expect("codes", torch.zeros(3, dtype=torch.int8), torch.uint8, (4,))


def test_a_block_within_a_block_forgets_nothing_of_it() -> None:
    layer = QuantLinear.from_weight(torch.randn(8, 64))
    with decoded_weights([layer], torch.float32, limit=10**6):
        with decoded_weights([layer], torch.float32, limit=10**6):
            assert layer.keeps_decoded
        assert layer.keeps_decoded
    assert not layer.keeps_decoded
