"""Blocks of GGUF files: gguf reads what is written, and the errors are those of a good choice of scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from veneer.errors import ModelError
from veneer.io.gguf.encode import Quant, encode, fitting, kind_of
from veneer.io.gguf.kquants import encode_q4_k, encode_q5_k, encode_q6_k

Floats = np.ndarray[Any, np.dtype[np.float32]]
ENCODERS = {Kind.Q4_K: encode_q4_k, Kind.Q5_K: encode_q5_k, Kind.Q6_K: encode_q6_k}


def weights(seed: int, rows: int = 24, columns: int = 512) -> Floats:
    """Rows of different size and spread, some with outliers, some on one side of zero."""
    source = np.random.default_rng(seed)
    found = source.standard_normal((rows, columns)) * source.lognormal(-3, 1.5, (rows, 1))
    found[::4, ::37] *= 12
    found[1::4] = np.abs(found[1::4])
    found[2::4] -= 3 * np.abs(found[2::4]).mean(1, keepdims=True)
    return found.astype(np.float32)


def half(value: float) -> float:
    return float(np.float16(value))


def obvious_affine(row: Floats, top: int) -> Floats:
    """One super-block of Q4_K (15) or Q5_K (31), number by number: the range of each block, cut evenly."""
    blocks = row.reshape(8, 32)
    low = [min(0.0, float(block.min())) for block in blocks]
    steps = [(float(block.max()) - start) / top for block, start in zip(blocks, low, strict=True)]
    d, e = half(max(steps) / 63), half(max(-start for start in low) / 63)
    out = np.zeros((8, 32), np.float32)
    for index, block in enumerate(blocks):
        scale = d * round(steps[index] / d) if d else 0.0
        offset = e * round(-low[index] / e) if e else 0.0
        for place, value in enumerate(block):
            code = min(top, max(0, round((float(value) + offset) / scale))) if scale else 0
            out[index, place] = scale * code - offset
    return out.reshape(-1)


def obvious_symmetric(row: Floats) -> Floats:
    """One super-block of Q6_K, number by number: the largest number of each block is the end of the range."""
    blocks = row.reshape(16, 16)
    steps = [float(np.abs(block).max()) / 31 for block in blocks]
    d = half(max(steps) / 127)
    out = np.zeros((16, 16), np.float32)
    for index, block in enumerate(blocks):
        scale = d * round(steps[index] / d) if d else 0.0
        for place, value in enumerate(block):
            out[index, place] = scale * min(31, max(-32, round(float(value) / scale))) if scale else 0.0
    return out.reshape(-1)


def squares(a: Floats, b: Floats) -> float:
    return float(np.square(a.astype(np.float64) - b.astype(np.float64)).sum())


@pytest.mark.parametrize("kind", list(ENCODERS), ids=lambda kind: kind.name)
def test_k_quants_beat_an_even_cut_of_every_block(kind: Kind) -> None:
    values = weights(int(kind))
    decoded = dequantize(ENCODERS[kind](values), kind)
    assert decoded.shape == values.shape
    top = {Kind.Q4_K: 15, Kind.Q5_K: 31}.get(kind)
    ours, theirs = [], []
    for row, back in zip(values.reshape(-1, 256), decoded.reshape(-1, 256), strict=True):
        reference = obvious_symmetric(row) if top is None else obvious_affine(row, top)
        ours.append(squares(back, row))
        theirs.append(squares(reference, row))
        assert ours[-1] <= theirs[-1]
    assert sum(ours) < 0.9 * sum(theirs)


def test_scales_are_near_the_best_that_whole_numbers_allow() -> None:
    """Of each block of Q4_K, all 64 × 64 pairs of scale and offset are tried beside the one that was chosen."""
    values = weights(7, rows=4, columns=256)
    encoded = encode_q4_k(values)
    decoded = dequantize(encoded, Kind.Q4_K)
    scales, offsets = np.meshgrid(np.arange(64.0), np.arange(64.0))
    best = chosen = 0.0
    for row, back, raw in zip(values, decoded, encoded, strict=True):
        d, e = raw[:4].view(np.float16).astype(np.float64)
        for block, got in zip(row.reshape(8, 32).astype(np.float64), back.reshape(8, 32), strict=True):
            scale, offset = (d * scales.reshape(-1, 1)), (e * offsets.reshape(-1, 1))
            safe = np.where(scale > 0, scale, 1.0)
            codes = np.where(scale > 0, np.clip(np.rint((block + offset) / safe), 0, 15), 0)
            best += float(np.square(scale * codes - offset - block).sum(1).min())
            chosen += squares(got, block.astype(np.float32))
    assert best <= chosen < 1.05 * best


@pytest.mark.parametrize("kind", list(ENCODERS), ids=lambda kind: kind.name)
def test_values_that_blocks_hold_exactly_come_back(kind: Kind) -> None:
    """Zeros, one value for all, and whole codes of a block format are kept."""
    assert np.array_equal(dequantize(ENCODERS[kind](np.zeros((3, 512), np.float32)), kind), np.zeros((3, 512)))
    for value in (0.25, -0.25):
        same = np.full((1, 256), value, np.float32)
        assert np.allclose(dequantize(ENCODERS[kind](same), kind), same, rtol=1e-3)
    once = dequantize(ENCODERS[kind](weights(3)), kind)
    again = dequantize(ENCODERS[kind](once), kind)
    assert squares(again, once) <= 2e-4 * squares(once, np.zeros_like(once))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weights(5)
    whole = {kind: encoder(values) for kind, encoder in ENCODERS.items()}
    monkeypatch.setattr("veneer.io.gguf.kquants.CHUNK", 3 * 256)
    for kind, encoder in ENCODERS.items():
        assert np.array_equal(encoder(values), whole[kind])


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q5_0, Kind.Q5_1], ids=lambda kind: kind.name)
def test_simple_blocks_are_ggufs_own(kind: Kind) -> None:
    values = weights(11)
    assert np.array_equal(encode("w", torch.from_numpy(values), kind), quantize(values, kind).reshape(-1))
    wide = torch.from_numpy(values).double() * (1 + 1e-12)
    assert np.array_equal(encode("w", wide, kind), quantize(wide.float().numpy(), kind).reshape(-1))


def test_float_types_are_rounded_once() -> None:
    tensor = torch.randn(4, 8, dtype=torch.float64)
    assert np.array_equal(encode("w", tensor, Kind.F16).view(np.float16), tensor.numpy().astype(np.float16).reshape(-1))
    assert np.array_equal(encode("w", tensor, Kind.F32).view(np.float32), tensor.float().numpy().reshape(-1))
    bits = encode("w", tensor, Kind.BF16).view(np.int16)
    assert torch.equal(torch.from_numpy(bits.copy()).view(torch.bfloat16), tensor.bfloat16().reshape(-1))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_K], ids=lambda kind: kind.name)
def test_values_that_cannot_be_held_are_refused(kind: Kind) -> None:
    for bad in (float("nan"), float("inf")):
        tensor = torch.zeros(1, 256)
        tensor[0, 5] = bad
        with pytest.raises(ModelError, match=r"w\.x holds NaN or infinite"):
            encode("w.x", tensor, kind)
    large = torch.full((1, 256), 1e6)
    if kind is Kind.F32:
        assert encode("w.x", large, kind).nbytes == 1024
    else:
        with pytest.raises(ModelError, match="up to 1e\\+06"):
            encode("w.x", large, kind)


# --------------------------------------------------------------------------------------------------------- the mixture


def metadata(layers: int, architecture: str = "llama", **more: Any) -> dict[str, Any]:
    own = {"block_count": layers, "attention.head_count": 8, "attention.head_count_kv": 2, **more}
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}


def test_q4_k_m_gives_some_layers_more_bits() -> None:
    """llama.cpp's rule, written out for 32 layers: the first and last eighth, and every third between."""
    more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    values = metadata(32)
    for layer in range(32):
        wide = Kind.Q6_K if layer in more else Kind.Q4_K
        for part, expected in (("attn_v", wide), ("ffn_down", wide), ("attn_q", Kind.Q4_K), ("ffn_up", Kind.Q4_K)):
            found = kind_of(f"blk.{layer}.{part}.weight", (512, 512), Quant.Q4_K_M, values, tied=False)
            assert found is expected, (layer, part)
        assert kind_of(f"blk.{layer}.attn_qkv.weight", (512, 512), Quant.Q4_K_M, values, tied=False) is Kind.Q5_K


@pytest.mark.parametrize(
    ("name", "columns", "quant", "tied", "expected"),
    [
        ("token_embd.weight", 512, Quant.Q4_K_M, False, Kind.Q4_K),
        ("token_embd.weight", 512, Quant.Q4_K_M, True, Kind.Q6_K),
        ("token_embd.weight", 576, Quant.Q4_K_M, True, Kind.Q8_0),
        ("output.weight", 512, Quant.Q4_K_M, False, Kind.Q6_K),
        ("output.weight", 512, Quant.Q4_0, False, Kind.Q6_K),
        ("output.weight", 512, Quant.Q8_0, False, Kind.Q8_0),
        ("output.weight", 512, Quant.F16, False, Kind.F16),
        ("token_embd.weight", 512, Quant.Q4_0, False, Kind.Q4_0),
        ("blk.1.attn_q.weight", 576, Quant.Q4_K_M, True, Kind.Q5_0),
        ("blk.0.attn_v.weight", 576, Quant.Q4_K_M, True, Kind.Q8_0),
        ("blk.1.attn_qkv.weight", 576, Quant.Q4_K_M, True, Kind.Q5_1),
        ("blk.1.attn_q.weight", 40, Quant.Q4_K_M, True, Kind.F16),
        ("blk.1.attn_q.weight", 40, Quant.Q8_0, True, Kind.F16),
        ("blk.1.attn_norm.weight", 512, Quant.Q4_K_M, True, Kind.F32),
        ("blk.1.attn_q.bias", 512, Quant.F16, True, Kind.F32),
    ],
)
def test_types_by_name_and_width(name: str, columns: int, quant: Quant, tied: bool, expected: Kind) -> None:
    shape = (columns,) if "norm" in name or "bias" in name else (64, columns)
    assert kind_of(name, shape, quant, metadata(32), tied=tied) is expected


def test_stacked_norms_stay_float32_and_large_models_get_a_fifth_bit() -> None:
    assert kind_of("blk.0.attn_q_norm.weight", (8, 64), Quant.Q8_0, metadata(4), tied=True) is Kind.F32
    found = kind_of("blk.11.attn_v.weight", (64, 512), Quant.Q4_K_M, metadata(80), tied=False)
    assert found is Kind.Q5_K
    assert fitting(Kind.Q4_K, 512) is Kind.Q4_K
