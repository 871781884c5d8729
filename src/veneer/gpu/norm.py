"""RMS normalisation in Triton, one program per row, and the same with the residual addition before it.

Arithmetic is float32 and is rounded at the points where `veneer.model.fused` rounds: the normalised row before the
weight, the product with the weight, and in backward dy · w. The wide norms (Gemma's) round once, at the end, and add an
offset to the weight. In float32 the results differ from torch's only by the order of sums.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from veneer.gpu.launch import launch_kernel, next_power_of_two, warps


@triton.jit
def _forward(
    x: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    rstd: tl.tensor,
    dim: tl.tensor,
    eps: tl.tensor,
    offset: tl.tensor,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    place = row * dim + column
    inside = column < dim
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        # Rounded before it is normalised: this layer normalises the same numbers to which the next layer adds.
        rounded = (value + tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)).to(x.dtype.element_ty)
        tl.store(residual + place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / dim + eps)
    tl.store(rstd + row, r)
    w = tl.load(weight + column, mask=inside, other=0.0)
    if WIDE:
        result = value * r * (w.to(tl.float32) + offset)
    else:
        normed = (value * r).to(x.dtype.element_ty).to(tl.float32)
        result = normed * w.to(x.dtype.element_ty).to(tl.float32)
    tl.store(y + place, result.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    x: tl.tensor,
    weight: tl.tensor,
    rstd: tl.tensor,
    grad: tl.tensor,
    grad_residual: tl.tensor,
    grad_x: tl.tensor,
    dim: tl.tensor,
    offset: tl.tensor,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    place = row * dim + column
    inside = column < dim
    r = tl.load(rstd + row)
    normed = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * r
    w = tl.load(weight + column, mask=inside, other=0.0)
    dy = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    if WIDE:
        g = dy * (w.to(tl.float32) + offset)
    else:
        g = (dy * w.to(x.dtype.element_ty).to(tl.float32)).to(x.dtype.element_ty).to(tl.float32)
    dx = (g - normed * (tl.sum(g * normed, axis=0) / dim)) * r
    if ADD:
        dx += tl.load(grad_residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x + place, dx.to(x.dtype.element_ty), mask=inside)


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalised rows of `x` `[rows, dim]`, and their rstd, float32 `[rows]`.

    Args:
        x: the rows, contiguous; float32, bfloat16 or float16.
        weight: `[dim]`, contiguous, of any of these dtypes; rounded to that of `x` in the kernel.
        eps: added to the mean square.
    """
    y, rstd = torch.empty_like(x), _statistics(x)
    _run(_forward, x, (x, x, weight, y, y, rstd, x.shape[1], eps, 0.0))
    return y, rstd


def wide_norm_forward(x: Tensor, weight: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """x · rstd · (offset + weight), rounded once, and rstd; arguments as `rms_norm_forward`, the weight as it is."""
    y, rstd = torch.empty_like(x), _statistics(x)
    _run(_forward, x, (x, x, weight, y, y, rstd, x.shape[1], eps, offset), wide=True)
    return y, rstd


def add_rms_norm_forward(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The sum x + delta in their dtype, its normalised rows, and their rstd; arguments as `rms_norm_forward`."""
    residual, y, rstd = torch.empty_like(x), torch.empty_like(x), _statistics(x)
    _run(_forward, x, (x, delta, weight, residual, y, rstd, x.shape[1], eps, 0.0), add=True)
    return residual, y, rstd


def rms_norm_backward(x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the rows `x`, from that of the normalised ones; with n = x·rstd, g = dy·w: rstd·(g − n·mean(g·n))."""
    grad_x = torch.empty_like(x)
    _run(_backward, x, (x, weight, rstd, grad, grad, grad_x, x.shape[1], 0.0))
    return grad_x


def wide_norm_backward(x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor, offset: float) -> Tensor:
    """Gradient of the rows of `wide_norm_forward`, with g = dy · (offset + w), rounded once."""
    grad_x = torch.empty_like(x)
    _run(_backward, x, (x, weight, rstd, grad, grad, grad_x, x.shape[1], offset), wide=True)
    return grad_x


def add_rms_norm_backward(
    residual: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor, grad_residual: Tensor
) -> Tensor:
    """Gradient of x, and of delta: that of the norm plus that of the sum itself, added in float32 and rounded once."""
    grad_x = torch.empty_like(residual)
    arguments = (residual, weight, rstd, grad, grad_residual, grad_x, residual.shape[1], 0.0)
    _run(_backward, residual, arguments, add=True)
    return grad_x


def _run(kernel: Any, x: Tensor, arguments: tuple[object, ...], *, add: bool = False, wide: bool = False) -> None:
    rows, dim = x.shape
    block = next_power_of_two(dim)
    constants = {"BLOCK": block, "num_warps": warps(block), "ADD": add, "WIDE": wide}
    launch_kernel(kernel, (rows,), x, arguments, constants)


def _statistics(x: Tensor) -> Tensor:
    return torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
