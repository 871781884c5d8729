"""Norms and gated products, each as one function with its own backward pass.

autograd would keep every intermediate tensor; these keep only their inputs. Statistics are computed in float32 and
rounded where Hugging Face rounds, so that bf16 results agree with the reference models. Compiled kernels compute each
in one pass on a CPU, and Triton kernels on CUDA. The torch code next to each call computes the same for every other
device and dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu.dispatch import kernels_for, triton_kernels


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for narrower dtypes, otherwise the dtype itself (float64 in gradient checks)."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _kernel_weight(weight: Tensor, x: Tensor) -> Tensor:
    """The weight in the form that the kernels need.

    Triton kernels round it to the dtype of `x` themselves. The compiled kernels read float32, after that rounding.
    """
    if x.is_cuda:
        return weight.detach().contiguous()
    return weight.detach().to(x.dtype).float().contiguous()


def _norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y = round(x · rstd) · w with rstd = 1/√(mean(x²) + eps). Returns y and rstd `[…, 1]`."""
    fast = kernels_for(x)
    if fast is not None and x.ndim == 2 and weight.shape == x.shape[1:]:
        y, rstd = fast.rms_norm_forward(x, _kernel_weight(weight, x), eps)
        return y, rstd[:, None]
    wide = x.to(_accumulation_dtype(x.dtype))
    rstd = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * rstd).to(x.dtype) * weight.to(x.dtype), rstd


def _norm_backward(
    x: Tensor, weight: Tensor, rstd: Tensor, dy: Tensor, *, weight_too: bool
) -> tuple[Tensor, Tensor | None]:
    """With n = x·rstd and g = dy·w:  dx = rstd · (g − n · mean(g·n)),  dw = Σ dy·n."""
    fast = kernels_for(x, dy)
    if fast is not None and x.ndim == 2 and not weight_too:
        return fast.rms_norm_backward(x, _kernel_weight(weight, x), rstd, dy), None
    normed = x.to(rstd.dtype) * rstd
    grad_weight = (dy.to(rstd.dtype) * normed).sum(0).to(weight.dtype) if weight_too else None
    g = (dy * weight.to(dy.dtype)).to(rstd.dtype)
    inner = (g * normed).mean(-1, keepdim=True)
    return g.addcmul_(normed, inner, value=-1).mul_(rstd).to(x.dtype), grad_weight


class _RmsNorm(torch.autograd.Function):
    """RMS normalisation (Zhang & Sennrich, 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, rstd = _norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, rstd = ctx.saved_tensors
        dx, dw = _norm_backward(x, weight, rstd, grads[0].contiguous(), weight_too=ctx.needs_input_grad[1])
        return dx, dw, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS normalisation of `x` `[tokens, dim]` over its last axis, times `weight` `[dim]`."""
    result: Tensor = _RmsNorm.apply(x, weight, eps)
    return result


class _AddRmsNorm(torch.autograd.Function):
    """The residual sum and its norm. With kernels each direction is one pass over the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        fast = kernels_for(x, delta)
        if fast is not None and x.ndim == 2 and weight.shape == x.shape[1:] and delta.shape == x.shape:
            residual, y, rstd = fast.add_rms_norm_forward(x, delta, _kernel_weight(weight, x), eps)
            rstd = rstd[:, None]
        else:
            residual = x + delta
            y, rstd = _norm_forward(residual, weight, eps)
        ctx.save_for_backward(residual, weight, rstd)
        return residual, y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        residual, weight, rstd = ctx.saved_tensors
        d_residual, dy = (grad.contiguous() for grad in grads)
        fast = kernels_for(residual, d_residual, dy)
        if fast is not None and residual.ndim == 2 and not ctx.needs_input_grad[2]:
            dx = fast.add_rms_norm_backward(residual, _kernel_weight(weight, residual), rstd, dy, d_residual)
            return dx, dx, None, None
        dx, dw = _norm_backward(residual, weight, rstd, dy, weight_too=ctx.needs_input_grad[2])
        dx = dx + d_residual
        return dx, dx, dw, None


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The new residual x + delta and its `rms_norm`, both `[tokens, dim]`."""
    result: tuple[Tensor, Tensor] = _AddRmsNorm.apply(x, delta, weight, eps)
    return result


def _along_rows(total: Tensor, shape: torch.Size) -> Tensor:
    """`total` `[…, *shape]` summed over its leading axes, to `shape`."""
    return total.sum(tuple(range(total.ndim - len(shape)))) if total.ndim > len(shape) else total


class _WideNorm(torch.autograd.Function):
    """y = round(n · (offset + w) + b) with n = (x − mean) · rstd, or x · rstd. Backward needs x and two numbers for
    each row.

    With g = dy · (offset + w):  dx = rstd · (g − n · mean(g·n) − mean(g)), without the last term where x is not
    centred;  dw = Σ dy·n,  db = Σ dy  (Ba et al., 2016, arXiv:1607.06450).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool, offset: float
    ) -> Tensor:
        ctx.offset, ctx.biased = offset, None if bias is None else bias.dtype
        triton = None if centred or bias is not None or weight.shape != x.shape[-1:] else triton_kernels(x)
        if triton is not None:
            y, rstd = triton.wide_norm_forward(x.flatten(0, -2), _kernel_weight(weight, x), eps, offset)
            ctx.save_for_backward(x, weight, None, rstd.view(*x.shape[:-1], 1))
            return y.view(x.shape)
        wide = x.to(_accumulation_dtype(x.dtype))
        mean = wide.mean(-1, keepdim=True) if centred else None
        wide = wide - mean if mean is not None else wide
        rstd = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        y = wide * rstd * (weight.to(wide.dtype) + offset)
        if bias is not None:
            y += bias.to(wide.dtype)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        plain = mean is None and weight.shape == x.shape[-1:] and not any(ctx.needs_input_grad[1:3])
        grad = grads[0].contiguous() if x.is_cuda else grads[0]
        triton = triton_kernels(x, grad) if plain else None
        if triton is not None:
            rows = (x.flatten(0, -2), _kernel_weight(weight, x), rstd, grad.flatten(0, -2))
            return triton.wide_norm_backward(*rows, ctx.offset).view(x.shape), None, None, None, None, None
        dy = grad.to(rstd.dtype)
        normed = x.to(rstd.dtype)
        normed = (normed if mean is None else normed - mean) * rstd
        grad_weight = _along_rows(dy * normed, weight.shape).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = _along_rows(dy, weight.shape).to(ctx.biased) if ctx.needs_input_grad[2] else None
        g = dy * (weight.to(rstd.dtype) + ctx.offset)
        inner = (g * normed).mean(-1, keepdim=True)
        if mean is not None:
            g = g - g.mean(-1, keepdim=True)
        return g.addcmul(normed, inner, value=-1).mul_(rstd).to(x.dtype), grad_weight, grad_bias, None, None, None


def wide_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool = False, offset: float = 0.0
) -> Tensor:
    """Normalise `x` `[…, dim]` over its last axis in float32 or wider, and round once.

    Args:
        x: rows to normalise.
        weight: weight `[dim]`, or `[heads, dim]` for `x` `[tokens, heads, dim]`.
        bias: bias in the shape of the weight, or None.
        eps: number that is added to the mean square.
        centred: whether the mean is subtracted first (LayerNorm).
        offset: number that is added to the weight.
    """
    result: Tensor = _WideNorm.apply(x, weight, bias, eps, centred, offset)
    return result


class _SwiGlu(torch.autograd.Function):
    """h = silu(gate) · up. Keeps gate and up; backward computes silu again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        fast = kernels_for(gate, up)
        if fast is not None and gate.shape == up.shape:
            return fast.swiglu_forward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dh = grads[0].contiguous()
        fast = kernels_for(gate, up, dh)
        if fast is not None and gate.shape == up.shape:
            return fast.swiglu_backward(gate, up, dh)
        grad_up = functional.silu(gate).mul_(dh)
        grad_gate = torch.ops.aten.silu_backward(dh * up, gate)
        return grad_gate, grad_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, elementwise  (Shazeer, 2020, arXiv:2002.05202)."""
    result: Tensor = _SwiGlu.apply(gate, up)
    return result


class _GeGlu(torch.autograd.Function):
    """h = gelu(gate) · up with the tanh form of gelu. Keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        triton = triton_kernels(gate, up)
        if triton is not None and gate.shape == up.shape:
            return triton.geglu_forward(gate, up)
        return functional.gelu(gate, approximate="tanh") * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dh = grads[0].contiguous() if gate.is_cuda else grads[0]
        triton = triton_kernels(gate, up, dh)
        if triton is not None and gate.shape == up.shape:
            return triton.geglu_backward(gate, up, dh)
        grad_up = functional.gelu(gate, approximate="tanh").mul_(dh)
        grad_gate: Tensor = torch.ops.aten.gelu_backward(dh * up, gate, approximate="tanh")
        return grad_gate, grad_up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) · up, elementwise  (Shazeer, 2020, arXiv:2002.05202; gelu by tanh: arXiv:1606.08415)."""
    result: Tensor = _GeGlu.apply(gate, up)
    return result
