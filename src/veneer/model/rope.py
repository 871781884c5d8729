"""Rotary position embedding, rotate-half layout (the one of Hugging Face checkpoints).

A head of `dim` numbers is taken as `dim / 2` pairs (x[i], x[i + dim/2]); pair i of a token at position p is turned by
the angle p · inv_freq[i] (Su et al., 2021, arXiv:2104.09864). Angles, sine and cosine are computed in float32: in
bfloat16 a position above 256 would already be rounded.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from veneer.gpu.dispatch import Kernels, kernels_for
from veneer.model.spec import RopeKind, RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """Angle per position of every pair, float32 `[head_dim / 2]`, scaling applied.

    Llama 3's scaling divides long wavelengths by `factor`, keeps short ones, and blends between (the published
    reference implementation of Llama 3.1; the same as in Hugging Face's `rope_type: llama3`).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind is RopeKind.LINEAR:
        return frequencies / rope.factor
    if rope.kind is RopeKind.FACTORS:
        return frequencies / torch.tensor(rope.factors, dtype=torch.float32)
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


def rotation(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every angle at `positions` `[tokens]`: two float32 tensors `[tokens, head_dim / 2]`."""
    angles = positions.to(torch.float32)[:, None] * frequencies[None, :]
    return angles.cos(), angles.sin()


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of `x` `[tokens, heads, head_dim]` by its angle, in float32 or wider and rounded once."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    left, right = x[..., :half].to(wide), x[..., half:].to(wide)
    c, s = cosine[:, None, :], sine[:, None, :]
    return torch.cat((left * c - right * s, right * c + left * s), dim=-1).to(x.dtype)


def _kernels(x: Tensor, cosine: Tensor, sine: Tensor) -> Kernels | None:
    """Kernels that can turn `x`; they read the angles as contiguous float32 beside it."""
    angles = (cosine, sine)
    if any(a.dtype != torch.float32 or a.device != x.device or not a.is_contiguous() for a in angles):
        return None
    return kernels_for(x)


class _Rotate(torch.autograd.Function):
    """y = R x with R orthogonal, so dx = Rᵀ dy: the same turn with the sine negated. Nothing of x is kept."""

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
    """Turn `x` `[tokens, heads, head_dim]` by the angles of `rotation`."""
    result: Tensor = _Rotate.apply(x, cosine, sine)  # type: ignore[no-untyped-call]
    return result
