"""K-quants beat an even cut of every block, and their scales are near the best."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from helpers.gguf.blocks import Floats, weights
from veneer.io.gguf.kquants import encode_q4_k, encode_q5_k, encode_q6_k

ENCODERS = {Kind.Q4_K: encode_q4_k, Kind.Q5_K: encode_q5_k, Kind.Q6_K: encode_q6_k}


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
