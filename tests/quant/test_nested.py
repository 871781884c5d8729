"""Scales in 8 bits are those of bitsandbytes but for its approximate search, and every code is the nearest."""

from __future__ import annotations

import warnings

import pytest
import torch

from veneer.errors import ModelError
from veneer.quant import nested as module
from veneer.quant.codes import dequantize_4bit, quantize_4bit
from veneer.quant.dynamic import DynamicMap, map_values
from veneer.quant.nested import dequantize_nested, nested_scales, quantize_nested

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # bitsandbytes warns about optional kernels and deprecated torch calls
    bnb = pytest.importorskip("bitsandbytes.functional")


def normal(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.03


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 5000])
def test_nested_codes_are_the_nearest_by_brute_force(count: int) -> None:
    _, absmax = quantize_4bit(normal((count * 64,), seed=count))
    nested = quantize_nested(absmax)
    assert nested.codes.dtype == torch.uint8
    assert abs(float(nested.offset) - float(absmax.double().mean())) <= float(nested.offset) * 2**-24
    values = map_values(DynamicMap.SIGNED).double()
    for start in range(0, count, 256):
        part = absmax[start : start + 256] - nested.offset
        scale = part.abs().max()
        assert nested.factors[start // 256] == scale
        scaled = (part * (1 / scale.clamp(min=1e-38))).double()
        nearest = (scaled.unsqueeze(1) - values).abs().argmin(dim=1)
        assert nested.codes[start : start + 256].tolist() == nearest.tolist()


def test_nested_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    absmax = torch.rand(1300, generator=torch.Generator().manual_seed(4))
    whole = quantize_nested(absmax)
    monkeypatch.setattr(module, "_CHUNK", 512)
    parts = quantize_nested(absmax)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.factors, whole.factors)
    assert torch.equal(parts.offset, whole.offset)


def test_nested_matches_bitsandbytes_but_for_its_approximate_search() -> None:
    weight = normal((1024, 1024))
    _, absmax = quantize_4bit(weight)
    nested = quantize_nested(absmax)
    _, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    assert torch.allclose(state.offset, nested.offset, rtol=1e-6, atol=0)
    difference = (state.absmax.int() - nested.codes.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference != 0).float().mean()) < 0.01


@pytest.mark.parametrize("shape", [(1024, 64), (300, 192)])
def test_nested_decode_equals_bitsandbytes(shape: tuple[int, int]) -> None:
    packed, state = bnb.quantize_4bit(normal(shape), blocksize=64, quant_type="nf4", compress_statistics=True)
    scales = dequantize_nested(nested_scales(state.absmax, state.state2.absmax, state.offset))
    expected_scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert torch.equal(scales, expected_scales)
    assert torch.equal(
        dequantize_4bit(packed.view(-1), scales, shape, torch.float32), bnb.dequantize_4bit(packed, state)
    )


def test_equal_scales_survive_nesting_exactly() -> None:
    absmax = torch.full((300,), 0.37)
    assert torch.equal(dequantize_nested(quantize_nested(absmax)), absmax)


def test_nested_sizes_are_checked() -> None:
    nested = quantize_nested(torch.rand(300))
    with pytest.raises(ModelError, match="2 scales; got 1"):
        dequantize_nested(nested_scales(nested.codes, nested.factors[:1], nested.offset))
