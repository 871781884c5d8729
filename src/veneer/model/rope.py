"""Rotary position embedding, rotate-half layout (the one of most Hugging Face checkpoints).

A head of `dim` elements is `dim / 2` pairs (x[i], x[i + dim/2]). Pair i of a token at position p is rotated by
the angle p · inv_freq[i] (Su et al., 2021, arXiv:2104.09864). Angles, sine and cosine are computed in float32: in
bfloat16 a position above 256 would already be rounded. If the pairs are neighbours (x[2i], x[2i+1]), they are reordered
to halves and back. If only part of a head is rotated, the rest passes through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veneer.gpu.dispatch import SharedKernels, kernels_for
from veneer.model.shape import RopeKind, RopeLayout, RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int, *, long: bool = False) -> Tensor:
    """Angle per position of every pair, float32 `[turned / 2]`, with the scaling applied.

    Llama 3's scaling divides long wavelengths by `factor`, keeps short ones, and blends between (the published
    reference implementation of Llama 3.1; Hugging Face's `rope_type: llama3`).

    Args:
        rope: base and scaling.
        head_dim: elements of a head, of which the share `rope.share` is rotated.
        long: whether to return LongRoPE's frequencies for texts beyond the trained context.
    """
    turned = rope.turned(head_dim)
    exponents = torch.arange(0, turned, 2, dtype=torch.int64).float() / turned
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind is RopeKind.LINEAR:
        return frequencies / rope.factor
    if rope.kind is RopeKind.FACTORS:
        return frequencies / torch.tensor(rope.factors, dtype=torch.float32)
    if rope.kind is RopeKind.LONGROPE:
        factors = rope.long_factors if long else rope.factors
        return 1.0 / (torch.tensor(factors, dtype=torch.float32) * rope.theta**exponents)
    if rope.kind is RopeKind.YARN:
        keep = 1 - _yarn_ramp(rope, turned)
        return frequencies / rope.factor * (1 - keep) + frequencies * keep
    if rope.kind is RopeKind.LLAMA3:
        wavelengths = 2 * math.pi / frequencies
        longest = rope.original_max_positions / rope.low_freq_factor
        shortest = rope.original_max_positions / rope.high_freq_factor
        blend = (rope.original_max_positions / wavelengths - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        blended = (1 - blend) * frequencies / rope.factor + blend * frequencies
        scaled = torch.where(wavelengths > longest, frequencies / rope.factor, frequencies)
        between = (wavelengths >= shortest) & (wavelengths <= longest)
        return torch.where(between, blended, scaled)
    return frequencies


def _yarn_ramp(rope: RopeSpec, turned: int) -> Tensor:
    """0 for fast pairs, which are kept, to 1 for slow pairs, which are divided; float32 `[turned / 2]` (Peng et al.,
    2023, arXiv:2309.00071, section 3.2)."""

    def pair(turns: float) -> float:
        """Index of the pair that makes this many turns over the trained context."""
        return turned * math.log(rope.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    if low == high:
        high += 0.001  # no division by zero
    return ((torch.arange(turned // 2, dtype=torch.float32) - low) / (high - low)).clamp_(0, 1)


@dataclass(frozen=True, slots=True)
class Angles:
    """Rotation angles of every pair of every token."""

    cosine: Tensor
    """Cosines times the amplitude, float32 `[tokens, turned / 2]`; `sine` likewise."""
    sine: Tensor
    layout: RopeLayout
    head_dim: int


class Rotary(nn.Module):
    """The frequencies of one kind of rotary positions."""

    frequencies: Tensor
    long_frequencies: Tensor | None

    def __init__(self, rope: RopeSpec, head_dim: int, device: torch.device):
        super().__init__()
        self.rope, self.head_dim = rope, head_dim
        self.place(device)

    def place(self, device: torch.device) -> None:
        """Compute the frequencies, on a device."""
        rope, head_dim = self.rope, self.head_dim
        self.register_buffer("frequencies", inverse_frequencies(rope, head_dim).to(device), persistent=False)
        long = inverse_frequencies(rope, head_dim, long=True).to(device) if rope.kind is RopeKind.LONGROPE else None
        self.register_buffer("long_frequencies", long, persistent=False)

    def forward(self, positions: Tensor, lengths: Tensor | None = None) -> Angles:
        """The angles of tokens.

        Args:
            positions: positions of the tokens, int64 `[tokens]`.
            lengths: length of the text that each token is in, int64 `[tokens]`. LongRoPE needs them.
        """
        cosine, sine = rotation(positions, self.frequencies)
        if self.long_frequencies is not None and lengths is not None:
            long = (lengths > self.rope.original_max_positions)[:, None]
            others = rotation(positions, self.long_frequencies)
            cosine, sine = torch.where(long, others[0], cosine), torch.where(long, others[1], sine)
        if self.rope.amplitude != 1.0:
            cosine, sine = cosine * self.rope.amplitude, sine * self.rope.amplitude
        return Angles(cosine, sine, self.rope.layout, self.head_dim)


def rotation(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every angle at `positions` `[tokens]`: two float32 tensors `[tokens, head_dim / 2]`."""
    angles = positions.to(torch.float32)[:, None] * frequencies[None, :]
    return angles.cos(), angles.sin()


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair of `x` `[tokens, heads, head_dim]` by its angle, in float32 or wider, and round once."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    left, right = x[..., :half].to(wide), x[..., half:].to(wide)
    c, s = cosine[:, None, :], sine[:, None, :]
    return torch.cat((left * c - right * s, right * c + left * s), dim=-1).to(x.dtype)


def _kernels(x: Tensor, cosine: Tensor, sine: Tensor) -> SharedKernels | None:
    """Kernels that can rotate `x`, or None. They need contiguous float32 angles on the device of `x`."""
    angles = (cosine, sine)
    if any(a.dtype != torch.float32 or a.device != x.device or not a.is_contiguous() for a in angles):
        return None
    return kernels_for(x)


class _Rotate(torch.autograd.Function):
    """y = R x with R orthogonal, so dx = Rᵀ dy: the rotation with the sine negated. x is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        fast = _kernels(x, cosine, sine)
        return turn(x, cosine, sine) if fast is None else fast.rotate(x, cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        grad = grads[0].contiguous()
        fast = _kernels(grad, cosine, sine)
        return turn(grad, cosine, -sine) if fast is None else fast.rotate(grad, cosine, sine, -1.0), None, None


def apply_rotation(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate `x` `[tokens, heads, head_dim]` by the angles of `rotation`. It is differentiable."""
    result: Tensor = _Rotate.apply(x, cosine, sine)
    return result


def turn_heads(x: Tensor, angles: Angles | None) -> Tensor:
    """Rotate `x` `[tokens, heads, head_dim]`; None leaves it as it is."""
    if angles is None:
        return x
    turned = 2 * angles.cosine.shape[-1]
    if turned < angles.head_dim:
        own = _turned(x[..., :turned].contiguous(), angles)
        return torch.cat((own, x[..., turned:]), dim=-1)
    return _turned(x, angles)


def _turned(x: Tensor, angles: Angles) -> Tensor:
    if angles.layout is RopeLayout.HALVES:
        return apply_rotation(x, angles.cosine, angles.sine)
    shape = x.shape
    halves = x.reshape(*shape[:-1], -1, 2).transpose(-1, -2).reshape(shape)
    turned = apply_rotation(halves, angles.cosine, angles.sine)
    return turned.view(*shape[:-1], 2, -1).transpose(-1, -2).reshape(shape)
