"""Encoders of the K-quants in Q4_K_M; the gguf package decodes them but does not write them.

A super-block is 256 weights of a row. Q4_K and Q5_K cut it into 8 blocks of 32, Q6_K into 16 of 16:

    Q4_K, Q5_K:  x ≈ d · s_b · q − e · m_b     q has 4 or 5 bits, s_b and m_b have 6, d and e are float16
    Q6_K:        x ≈ d · s_b · (q − 32)        q has 6 bits, s_b has 8 with a sign, d is float16

Choosing these numbers is a least-squares problem with integers. It is solved in four steps, and none of them can
increase the squared error:

1. Each block is fitted alone, with a free scale and offset. Several grids are laid over its range, and q is rounded on
   each. Scale and offset are then the least-squares fit for that q (a 2 × 2 system). The best fit is kept.
2. d and e are chosen so that the largest block scale and offset use all of their bits.
3. s_b and m_b are the whole numbers around what step 1 found. All combinations are tried, with q rounded again.
4. d (and e) are fitted once more for all q, s and m. The fit is taken if it lowers the error after q is rounded on it.

All weights count alike: without knowledge of the inputs, the error of a product's output is the sum of squares of the
weights' errors. Everything is computed in float32 over many blocks at once. The layouts are those of gguf's decoders.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Whole = np.ndarray[Any, np.dtype[np.int32]]

SUPER = 256
"""How many weights a super-block has."""
CHUNK = 1 << 16
"""How many weights are encoded at once: the temporaries stay in the processor's cache."""
GRIDS = np.linspace(-1.0, 1.0, 13, dtype=np.float32)
"""By how many steps a grid of step 1 spans more or less than the range of the block."""
SIGNED_GRIDS = np.linspace(-2.0, 1.0, 16, dtype=np.float32)
_ONE = np.ones(1, np.float32)
LARGEST = 63
"""The largest s_b and m_b in Q4_K and Q5_K."""


def encode_q4_k(rows: Floats) -> Bytes:
    """Encode float32 `[n, 256 k]` to bytes `[n, 144 k]`."""
    return _encode(rows, lambda blocks: _pack_q4(_affine(blocks, 15)), 144)


def encode_q5_k(rows: Floats) -> Bytes:
    """Encode float32 `[n, 256 k]` to bytes `[n, 176 k]`."""
    return _encode(rows, lambda blocks: _pack_q5(_affine(blocks, 31)), 176)


def encode_q6_k(rows: Floats) -> Bytes:
    """Encode float32 `[n, 256 k]` to bytes `[n, 210 k]`."""
    return _encode(rows, lambda blocks: _pack_q6(_symmetric(blocks)), 210)


def _encode(rows: Floats, encode: Callable[[Floats], Bytes], width: int) -> Bytes:
    blocks = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, SUPER)
    out = np.empty((len(blocks), width), dtype=np.uint8)
    step = CHUNK // SUPER

    def fill(start: int) -> None:
        out[start : start + step] = encode(blocks[start : start + step])

    starts = range(0, len(blocks), step)
    # numpy releases the interpreter's lock while it computes, and super-blocks do not depend on each other.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, starts))
    return out.reshape(len(rows), -1)


# ------------------------------------------------------------------------------------------------------ Q4_K and Q5_K


@dataclass(frozen=True, slots=True)
class _Affine:
    """The numbers chosen for n super-blocks of Q4_K or Q5_K."""

    d: Floats
    """The scale of each super-block, `[n]`, a float16 value."""
    e: Floats
    """The scale of its offsets, `[n]`, a float16 value."""
    scales: Whole
    """s of each block, `[n, 8]`."""
    offsets: Whole
    """m of each block, `[n, 8]`."""
    codes: Whole
    """q of each weight, `[n, 8, 32]`."""


def _affine(blocks: Floats, top: int) -> _Affine:
    x = blocks.reshape(-1, 8, 32)
    scale, offset = _fit_affine(x, top)
    d = _half(scale.max(1) / LARGEST)
    e = _half(offset.max(1) / LARGEST)
    scales, offsets, codes, error = _whole_affine(x, scale, offset, d, e, top)
    again_d, again_e = _refit(x, scales, offsets, codes, d, e)
    again = _round_affine(x, again_d, again_e, scales, offsets, top)
    better = ((again[1].sum(1) < error) & np.isfinite(again_d) & np.isfinite(again_e))[:, None]
    return _Affine(
        d=np.where(better[:, 0], again_d, d),
        e=np.where(better[:, 0], again_e, e),
        scales=scales,
        offsets=offsets,
        codes=np.where(better[..., None], again[0], codes),
    )


def _fit_affine(x: Floats, top: int) -> tuple[Floats, Floats]:
    """Step 1: find scale and offset `[n, 8]`, both ≥ 0, for x ≈ scale · q − offset."""
    low = np.minimum(x.min(-1), 0.0)
    span = x.max(-1) - low
    safe = np.where(span > 0, span, 1.0)
    total, square = x.sum(-1), np.square(x).sum(-1)
    best = np.full(low.shape, np.inf, np.float32)
    scale, offset = np.zeros_like(low), np.zeros_like(low)
    count = np.float32(x.shape[-1])
    for change in GRIDS:
        step = (top + change) / safe
        q = np.rint((x - low[..., None]) * step[..., None])
        q = np.minimum(np.maximum(q, 0, out=q), top, out=q)
        sum_q, sum_qq, sum_qx = q.sum(-1), np.square(q).sum(-1), (q * x).sum(-1)
        # This is the minimum over (s, o) of Σ (s q − o − x)². An offset cannot be below 0; then the fit goes through 0.
        determinant = count * sum_qq - sum_q * sum_q
        whole = np.where(determinant > 0, determinant, 1.0)
        s = (count * sum_qx - sum_q * total) / whole
        o = (sum_q * sum_qx - sum_qq * total) / whole
        through = (determinant <= 0) | (o < 0)
        s = np.where(through, sum_qx / np.where(sum_qq > 0, sum_qq, 1.0), s)
        o = np.where(through, 0.0, o)
        error = square + s * (s * sum_qq - 2 * o * sum_q - 2 * sum_qx) + o * (count * o + 2 * total)
        taken = (error < best) & (s >= 0)
        best = np.where(taken, error, best)
        scale, offset = np.where(taken, s, scale), np.where(taken, o, offset)
    flat = span <= 0  # all weights are zero, or all are one value that is not above 0
    return np.where(flat, 0.0, scale).astype(np.float32), np.where(flat, -low, offset).astype(np.float32)


def _whole_affine(
    x: Floats, scale: Floats, offset: Floats, d: Floats, e: Floats, top: int
) -> tuple[Whole, Whole, Whole, Floats]:
    """Step 3: return scales, offsets, codes, and the error of each super-block."""
    near_s = np.rint(_over(scale, d[:, None]))
    near_o = np.rint(_over(offset, e[:, None]))
    best: Floats = np.full(scale.shape, np.inf, np.float32)
    scales, offsets = np.zeros(scale.shape, np.int32), np.zeros(scale.shape, np.int32)
    codes = np.zeros(x.shape, np.int32)
    for more_s in (0, -1, 1):
        for more_o in (0, -1, 1):
            s = np.clip(near_s + more_s, 0, LARGEST).astype(np.int32)
            o = np.clip(near_o + more_o, 0, LARGEST).astype(np.int32)
            q, error = _round_affine(x, d, e, s, o, top)
            taken = error < best
            best = np.where(taken, error, best)
            scales, offsets = np.where(taken, s, scales), np.where(taken, o, offsets)
            codes = np.where(taken[..., None], q, codes)
    return scales, offsets, codes, best.sum(1)


def _round_affine(x: Floats, d: Floats, e: Floats, s: Whole, o: Whole, top: int) -> tuple[Whole, Floats]:
    """The nearest codes, and the squared error of each block `[n, 8]`."""
    scale, offset = (d[:, None] * s)[..., None], (e[:, None] * o)[..., None]
    q = np.rint((x + offset) * _over(_ONE, scale))
    q = np.minimum(np.maximum(q, 0, out=q), top, out=q)
    return q.astype(np.int32), np.square(scale * q - offset - x).sum(-1)


def _refit(x: Floats, scales: Whole, offsets: Whole, codes: Whole, d: Floats, e: Floats) -> tuple[Floats, Floats]:
    """Step 4: fit d and e by least squares over a super-block, x ≈ d · (s q) − e · m."""
    u = (scales[..., None] * codes).astype(np.float32).reshape(len(x), -1)
    v = np.broadcast_to(offsets[..., None], x.shape).astype(np.float32).reshape(len(x), -1)
    y = x.reshape(len(x), -1)
    uu, vv, uv = (u * u).sum(1), (v * v).sum(1), (u * v).sum(1)
    uy, vy = (u * y).sum(1), (v * y).sum(1)
    determinant = uu * vv - uv * uv
    both = determinant > 1e-6 * uu * vv
    whole = np.where(both, determinant, 1.0)
    fit_d = np.where(both, (uy * vv - uv * vy) / whole, uy / np.where(uu > 0, uu, 1.0))
    fit_e = np.where(both, (uv * uy - uu * vy) / whole, 0.0)
    usable = (fit_d > 0) & (fit_e >= 0)
    return _half(np.where(usable, fit_d, d)), _half(np.where(usable, fit_e, e))


def _pack_scales(scales: Whole, offsets: Whole) -> Bytes:
    """Pack 8 scales and 8 offsets of six bits into 12 bytes.

    The first four of each take a byte, whose two spare bits hold the upper bits of the last four. The lower bits of the
    last four share four bytes.
    """
    s, o = scales.astype(np.uint8), offsets.astype(np.uint8)
    first = (s[:, :4] & 63) | ((s[:, 4:] >> 4) << 6)
    second = (o[:, :4] & 63) | ((o[:, 4:] >> 4) << 6)
    third = (s[:, 4:] & 15) | ((o[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _pack_nibbles(codes: Whole) -> Bytes:
    """Pack each pair of blocks: the first block's codes take the lower four bits, the second's the upper four."""
    q = (codes & 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    return (q[:, :, 0] | (q[:, :, 1] << np.uint8(4))).reshape(-1, 128)


def _pack_q4(chosen: _Affine) -> Bytes:
    return np.concatenate([*_affine_head(chosen), _pack_nibbles(chosen.codes)], axis=1)


def _pack_q5(chosen: _Affine) -> Bytes:
    """Pack like Q4_K, with the fifth bits before the nibbles: bit b of byte i belongs to weight i of block b."""
    fifth = (chosen.codes >> 4).astype(np.uint8) << np.arange(8, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(fifth, axis=1)
    return np.concatenate([*_affine_head(chosen), high, _pack_nibbles(chosen.codes)], axis=1)


def _affine_head(chosen: _Affine) -> list[Bytes]:
    return [_half_bytes(chosen.d), _half_bytes(chosen.e), _pack_scales(chosen.scales, chosen.offsets)]


# --------------------------------------------------------------------------------------------------------------- Q6_K


@dataclass(frozen=True, slots=True)
class _Symmetric:
    """The numbers chosen for n super-blocks of Q6_K."""

    d: Floats
    """The scale of each super-block, `[n]`, a float16 value."""
    scales: Whole
    """s of each block, `[n, 16]`."""
    codes: Whole
    """q − 32 of each weight, `[n, 16, 16]`, −32 to 31."""


def _symmetric(blocks: Floats) -> _Symmetric:
    x = blocks.reshape(-1, 16, 16)
    scale = _fit_symmetric(x)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(1)[:, None], 1)[:, 0]
    # The largest scale takes −128: the range has one more number below than above.
    d = _half(largest / np.float32(-128))
    near = np.rint(_over(scale, d[:, None]))
    best: Floats = np.full(scale.shape, np.inf, np.float32)
    scales, codes = np.zeros(scale.shape, np.int32), np.zeros(x.shape, np.int32)
    for more in (0, -1, 1):
        s = np.clip(near + more, -128, 127).astype(np.int32)
        q, error = _round_symmetric(x, d, s)
        taken = error < best
        best, scales = np.where(taken, error, best), np.where(taken, s, scales)
        codes = np.where(taken[..., None], q, codes)
    u = (scales[..., None] * codes).astype(np.float32)
    squares = np.square(u).sum((1, 2))
    again_d = _half(np.where(squares > 0, (u * x).sum((1, 2)) / np.where(squares > 0, squares, 1.0), d))
    again_codes, again_error = _round_symmetric(x, again_d, scales)
    better = (again_error.sum(1) < best.sum(1)) & np.isfinite(again_d)
    return _Symmetric(np.where(better, again_d, d), scales, np.where(better[:, None, None], again_codes, codes))


def _fit_symmetric(x: Floats) -> Floats:
    """Step 1: find the scale `[n, 16]`, of either sign, for x ≈ scale · q."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
    safe = np.where(extreme != 0, extreme, 1.0)
    best, scale = np.zeros_like(extreme), np.zeros_like(extreme)
    for change in SIGNED_GRIDS:
        q = np.rint(x * (-(32 + change) / safe)[..., None])
        q = np.minimum(np.maximum(q, -32, out=q), 31, out=q)
        sum_qq, sum_qx = np.square(q).sum(-1), (q * x).sum(-1)
        # The squared error is Σ x² minus this gain.
        gain = np.square(sum_qx) / np.where(sum_qq > 0, sum_qq, 1.0)
        taken = gain > best
        best = np.where(taken, gain, best)
        scale = np.where(taken, sum_qx / np.where(sum_qq > 0, sum_qq, 1.0), scale)
    return scale.astype(np.float32)


def _round_symmetric(x: Floats, d: Floats, s: Whole) -> tuple[Whole, Floats]:
    scale = (d[:, None] * s)[..., None]
    q = np.rint(x * _over(_ONE, scale))
    q = np.minimum(np.maximum(q, -32, out=q), 31, out=q)
    return q.astype(np.int32), np.square(scale * q - x).sum(-1)


def _pack_q6(chosen: _Symmetric) -> Bytes:
    """Pack each half of 128 weights alone.

    The lower four bits of weights i and i + 64 share a byte; so do the upper two bits of every 32nd weight.
    """
    q = (chosen.codes + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = q & 15
    lower = np.stack([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2)
    upper = np.bitwise_or.reduce((q >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)
    scales = chosen.scales.astype(np.int8).view(np.uint8)
    return np.concatenate([lower.reshape(-1, 128), upper.reshape(-1, 64), scales, _half_bytes(chosen.d)], axis=1)


# -------------------------------------------------------------------------------------------------------------- shared


def _over(a: Floats, b: Floats) -> Floats:
    """A / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def _half(values: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> Floats:
    """Round to float16. Values that are too large become infinite, and the caller must refuse them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _half_bytes(values: Floats) -> Bytes:
    return values.astype("<f2")[:, None].view(np.uint8)
