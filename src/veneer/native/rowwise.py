"""What is computed row by row between the matrix products: norms, gated products, rotary positions, scaled columns
(norms.c, elementwise.c, column_scales.c), and weights of 4 bits that are decoded (quant.c)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from veneer.native.arguments import DTYPE_NUMBERS, pointer
from veneer.native.opened import OpenedLibrary
from veneer.native.stored import NestedScales, StoredMatrix

SUMMED_ROWS = 64
"""The number of rows whose gradients of a column's factor are summed first (ROWS of column_scales.c)."""


class RowwiseKernels:
    """These functions of a compiled library. Triton's kernels have all but the scaled columns too
    (`veneer.gpu.dispatch.SharedKernels`)."""

    def __init__(self, library: OpenedLibrary):
        self._library = library

    def rms_norm_forward(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The normalised rows and their rstd `[rows]`; `weight` is float32."""
        y, rstd = torch.empty_like(x), torch.empty(x.shape[0], dtype=torch.float32)
        self._norm(x, None, weight, eps, None, y, rstd)
        return y, rstd

    def add_rms_norm_forward(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x + delta, these rows normalised, and their rstd `[rows]`; `weight` is float32."""
        residual, y = torch.empty_like(x), torch.empty_like(x)
        rstd = torch.empty(x.shape[0], dtype=torch.float32)
        self._norm(x, delta, weight, eps, residual, y, rstd)
        return residual, y, rstd

    def _norm(
        self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, total: Tensor | None, y: Tensor, rstd: Tensor
    ) -> None:
        self._library.call(
            "rms_norm_forward",
            DTYPE_NUMBERS[x.dtype],
            *(pointer(tensor) for tensor in (x, delta, weight)),
            ctypes.c_float(eps),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            *(pointer(tensor) for tensor in (total, y, rstd)),
        )

    def rms_norm_backward(self, x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor) -> Tensor:
        """The gradient of the rows."""
        return self._norm_gradient(x, weight, rstd, grad, None)

    def add_rms_norm_backward(
        self, residual: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor, grad_residual: Tensor
    ) -> Tensor:
        """The gradient of x, and of delta: that of the norm plus that of the sum itself."""
        return self._norm_gradient(residual, weight, rstd, grad, grad_residual)

    def _norm_gradient(self, x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor, onto: Tensor | None) -> Tensor:
        grad_x = torch.empty_like(x)
        self._library.call(
            "rms_norm_backward",
            DTYPE_NUMBERS[x.dtype],
            *(pointer(tensor) for tensor in (x, weight, rstd, grad, onto)),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            pointer(grad_x),
        )
        return grad_x

    def scale_columns_forward(self, x: Tensor, scales: Tensor) -> Tensor:
        """x · scales, `[rows, dim]`, rounded once; `scales` is float32 `[dim]`."""
        y = torch.empty_like(x)
        self._library.call(
            "scale_columns_forward",
            DTYPE_NUMBERS[x.dtype],
            pointer(x),
            pointer(scales),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            pointer(y),
        )
        return y

    def scale_columns_backward(self, x: Tensor, scales: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x, and of the scales in float32."""
        grad_x, grad_scales = torch.empty_like(x), torch.empty_like(scales)
        sums = torch.empty(-(-x.shape[0] // SUMMED_ROWS), x.shape[1], dtype=torch.float32)
        self._library.call(
            "scale_columns_backward",
            DTYPE_NUMBERS[x.dtype],
            *(pointer(tensor) for tensor in (x, scales, grad)),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            *(pointer(tensor) for tensor in (grad_x, sums, grad_scales)),
        )
        return grad_x, grad_scales

    def swiglu_forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        h = torch.empty_like(gate)
        count = ctypes.c_int64(gate.numel())
        self._library.call("swiglu_forward", DTYPE_NUMBERS[gate.dtype], pointer(gate), pointer(up), count, pointer(h))
        return h

    def swiglu_backward(self, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of gate and up."""
        grads = torch.empty_like(gate), torch.empty_like(up)
        self._library.call(
            "swiglu_backward",
            DTYPE_NUMBERS[gate.dtype],
            *(pointer(tensor) for tensor in (gate, up, grad)),
            ctypes.c_int64(gate.numel()),
            *(pointer(tensor) for tensor in grads),
        )
        return grads

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
        """Rotate `[tokens, heads, dim]` by the angles whose cosine and sine are float32 `[tokens, dim / 2]`."""
        y = torch.empty_like(x)
        tokens, heads, dim = x.shape
        self._library.call(
            "rotate",
            DTYPE_NUMBERS[x.dtype],
            *(pointer(tensor) for tensor in (x, cosine, sine)),
            ctypes.c_float(sign),
            ctypes.c_int64(tokens),
            heads,
            dim,
            pointer(y),
        )
        return y

    def dequantize_4bit(self, weight: StoredMatrix, out: Tensor) -> None:
        """Decode a weight of 4 bits into `out`."""
        scales: tuple[Tensor | None, ...]
        if isinstance(weight.scales, NestedScales):
            nested, block = weight.scales, weight.scales.block
            scales = (None, nested.codes, nested.values, nested.factors, nested.offset)
        else:
            scales, block = (weight.scales, None, None, None, None), 1
        self._library.call(
            "dequantize_4bit",
            DTYPE_NUMBERS[out.dtype],
            pointer(weight.codes),
            pointer(weight.values),
            *(pointer(tensor) for tensor in scales),
            block,
            ctypes.c_int64(out.numel()),
            weight.block,
            pointer(out),
        )
