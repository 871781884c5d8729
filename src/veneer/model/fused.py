"""Elementwise blocks with a backward pass of their own.

autograd would keep every intermediate of these in memory and walk over it again; written as one function each they
keep only their inputs. Statistics are computed in float32 and rounded where Hugging Face rounds, so that bf16 results
agree with the reference models. On a CPU the compiled kernels do each in one pass; the torch code beside the call is
the same mathematics, for every other device and dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from veneer.native.library import kernels, usable


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for what is narrower, the dtype itself otherwise (float64 in gradient checks)."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _kernel_weight(weight: Tensor, x: Tensor) -> Tensor:
    """The weight as the kernel takes it: float32, after the rounding to the dtype of `x` that the torch path makes."""
    return weight.detach().to(x.dtype).float().contiguous()


class _RmsNorm(torch.autograd.Function):
    """y = round(x · rstd) · w with rstd = 1/√(mean(x²) + eps)  (Zhang & Sennrich, 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        native = kernels()
        if native is not None and usable(x) and x.ndim == 2 and weight.shape == x.shape[1:]:
            y, rstd = native.rms_norm_forward(x, _kernel_weight(weight, x), eps)
            ctx.save_for_backward(x, weight, rstd[:, None])
            return y
        wide = x.to(_accumulation_dtype(x.dtype))
        rstd = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        return (wide * rstd).to(x.dtype) * weight.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        # With n = x·rstd and g = dy·w:  dx = rstd · (g − n · mean(g·n)),  dw = Σ dy·n.
        x, weight, rstd = ctx.saved_tensors
        dy = grads[0].contiguous()
        native = kernels()
        if native is not None and usable(x, dy) and x.ndim == 2 and not ctx.needs_input_grad[1]:
            return native.rms_norm_backward(x, _kernel_weight(weight, x), rstd, dy), None, None
        normed = x.to(rstd.dtype) * rstd
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (dy.to(rstd.dtype) * normed).sum(0).to(weight.dtype)
        g = (dy * weight.to(dy.dtype)).to(rstd.dtype)
        inner = (g * normed).mean(-1, keepdim=True)
        return g.addcmul_(normed, inner, value=-1).mul_(rstd).to(x.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS normalisation of `x` `[tokens, dim]` over its last axis, times `weight` `[dim]`."""
    result: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


class _SwiGlu(torch.autograd.Function):
    """h = silu(gate) · up; keeps gate and up, and forms silu again in backward."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        native = kernels()
        if native is not None and usable(gate, up) and gate.shape == up.shape:
            return native.swiglu_forward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dh = grads[0].contiguous()
        native = kernels()
        if native is not None and usable(gate, up, dh) and gate.shape == up.shape:
            return native.swiglu_backward(gate, up, dh)
        grad_up = functional.silu(gate).mul_(dh)
        grad_gate = torch.ops.aten.silu_backward(dh * up, gate)
        return grad_gate, grad_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, elementwise  (Shazeer, 2020, arXiv:2002.05202)."""
    result: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return result
