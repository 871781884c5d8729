"""SwiGLU, GeGLU and rotary positions in Triton: one read and one write of every tensor, arithmetic in float32."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from veneer.gpu.launch import launch_kernel, next_power_of_two, warps

_BLOCK = 2048
"""Elements a program of SwiGLU, or a tile of rotary pairs, at most."""


@triton.jit
def _gated_forward(
    gate: tl.tensor, up: tl.tensor, h: tl.tensor, count: tl.tensor, GELU: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    z = g
    if GELU:
        # ½ (1 + tanh y) = 1 / (1 + exp(−2y)), and a sigmoid needs no function of CUDA's library.
        z = 1.5957691216057308 * (g + 0.044715 * g * g * g)
    # The activation is rounded before the product, as if each were a separate operation.
    activated = (g / (1.0 + tl.exp(-z))).to(h.dtype.element_ty).to(tl.float32)
    tl.store(h + place, (activated * u).to(h.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(
    gate: tl.tensor,
    up: tl.tensor,
    grad: tl.tensor,
    grad_gate: tl.tensor,
    grad_up: tl.tensor,
    count: tl.tensor,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    dh = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    z = g
    if GELU:
        z = 1.5957691216057308 * (g + 0.044715 * g * g * g)
    denominator = 1.0 + tl.exp(-z)
    sigmoid = 1.0 / denominator
    activated = (g / denominator).to(gate.dtype.element_ty).to(tl.float32)
    tl.store(grad_up + place, (activated * dh).to(gate.dtype.element_ty), mask=inside)
    d_activated = (dh * u).to(gate.dtype.element_ty).to(tl.float32)
    if GELU:
        slope = sigmoid + g * sigmoid * (1.0 - sigmoid) * 1.5957691216057308 * (1.0 + 0.134145 * g * g)
    else:
        slope = sigmoid * (1.0 + g * (1.0 - sigmoid))
    tl.store(grad_gate + place, (d_activated * slope).to(gate.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    x: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    y: tl.tensor,
    sign: tl.tensor,
    heads: tl.tensor,
    half: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, HALF)[None, :]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    c = tl.load(cosine + token * half + pair, mask=pair < half, other=0.0)
    s = tl.load(sine + token * half + pair, mask=pair < half, other=0.0) * sign
    inside = (head < heads) & (pair < half)
    left_place = (token * heads + head) * (2 * half) + pair
    left = tl.load(x + left_place, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + left_place + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + left_place, (left * c - right * s).to(y.dtype.element_ty), mask=inside)
    tl.store(y + left_place + half, (right * c + left * s).to(y.dtype.element_ty), mask=inside)


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up for two contiguous tensors of one shape and dtype (float32, bfloat16 or float16)."""
    return _forward(gate, up, gelu=False)


def swiglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up from that of silu(gate) · up; all contiguous, of one shape and dtype."""
    return _backward(gate, up, grad, gelu=False)


def geglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) · up with gelu by tanh; tensors as for `swiglu_forward`."""
    return _forward(gate, up, gelu=True)


def geglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up from that of gelu(gate) · up."""
    return _backward(gate, up, grad, gelu=True)


def _forward(gate: Tensor, up: Tensor, *, gelu: bool) -> Tensor:
    h = torch.empty_like(gate)
    _run(_gated_forward, (gate, up, h), gelu)
    return h


def _backward(gate: Tensor, up: Tensor, grad: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _run(_gated_backward, (gate, up, grad, grad_gate, grad_up), gelu)
    return grad_gate, grad_up


def _run(kernel: Any, tensors: tuple[Tensor, ...], gelu: bool) -> None:
    count = tensors[0].numel()
    constants = {"GELU": gelu, "BLOCK": _BLOCK, "num_warps": warps(_BLOCK)}
    launch_kernel(kernel, (-(-count // _BLOCK),), tensors[0], (*tensors, count), constants)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
    """Turn the pairs (i, i + dim/2) of `x` `[tokens, heads, dim]`; rounded once. `sign` -1 turns back, the gradient.

    Args:
        x: contiguous; float32, bfloat16 or float16.
        cosine, sine: the cosines and sines of the angles, contiguous float32 `[tokens, dim / 2]`.
        sign: 1 or -1.
    """
    y = torch.empty_like(x)
    tokens, heads, dim = x.shape
    pairs = next_power_of_two(dim // 2)
    tile = min(next_power_of_two(heads), max(1, _BLOCK // pairs))
    constants = {"HEADS": tile, "HALF": pairs, "num_warps": warps(tile * pairs)}
    arguments = (x, cosine, sine, y, sign, heads, dim // 2)
    launch_kernel(_rotate, (tokens, -(-heads // tile)), x, arguments, constants)
    return y
