"""Int8Linear: a frozen linear layer whose two products are computed in 8 bits, faster and less precisely.

Numbers are rounded to 255 steps. The weight has a scale for every row: forward multiplies by W with a scale for every
output, the input's gradient by Wᵀ with a scale for every input, so that each scale is outside of its sum. Each copy
takes one byte per element, so that both together take as much as bfloat16. The input has a scale for every 128 elements
of a row, as in DeepSeek-V3's 8-bit training (DeepSeek-AI, 2024, arXiv:2412.19437): a few elements of each row are far
larger than the rest, and with one scale for the row the rest would lose its digits.

    y[t, n] = s[n] · Σ_groups s[t, g] · Σ_k q[t, k] q[n, k],   the inner sum in integers, the outer in float32

The gradient is straight-through: roundings count as the identity. A LoRA adapter on the layer stays in float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from veneer.errors import ModelError
from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels
from veneer.products import LowRank, apply_frozen

LARGEST_CODE = 127.0
"""The largest code; −128 is not used, so that both sides of zero have the same steps."""
SMALLEST_MAGNITUDE = 2.0**-100
"""If the largest magnitude is below this, every element counts as zero: 127 / magnitude must be finite."""
GROUP_ELEMENTS = 128
"""How many elements of a row of the input share a scale; int8.c has the same number."""
LANES, STEP = 16, 4
"""The kernel reads a matrix in strips of 16 rows and, within them, in groups of four columns."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each line of the last axis to int8 codes like `x` and float32 scales `[*, 1]`: x ≈ codes · scale.

    Codes are rounded to the nearest, halves to even, so the error of an element is at most half the scale. A NaN or an
    infinity becomes the scale of its line.
    """
    wide = x.detach().float()
    largest = wide.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest >= SMALLEST_MAGNITUDE, torch.full_like(largest, LARGEST_CODE) / largest, 0.0)
    return (wide * inverse).round_().to(torch.int8), largest / LARGEST_CODE


def round_to_int8(x: Tensor) -> Tensor:
    """`x` `[tokens, width]` as the product sees it: the codes of each group times its scale, in float32."""
    tokens, width = x.shape
    padded = F.pad(x, (0, -width % GROUP_ELEMENTS))
    codes, scales = quantize_rows(padded.view(tokens, -(-width // GROUP_ELEMENTS), GROUP_ELEMENTS))
    return (codes * scales).flatten(1)[:, :width]


class Int8Matrix(nn.Module):
    """A matrix `[rows, width]` in 8 bits with a float32 scale for every row, ready to be multiplied.

    Buffers: `codes` int8 `[rows, width]`, `scales` float32 `[rows, 1]`. If the compiled product runs, both are in its
    layout (see native/int8.c), and there are also `offsets` int32. Casting the module does not change them.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None

    def __init__(self, weight: Tensor):
        """Quantise `weight` `[rows, width]`; raises ModelError if it is not finite."""
        super().__init__()
        self.rows, self.width = weight.shape
        codes, scales = quantize_rows(weight)
        broken = int((~torch.isfinite(scales)).sum())
        if broken:
            raise ModelError(
                f"{broken} of {self.rows} rows of a weight have NaN or infinite values; all must be finite"
            )
        offsets = None
        native = kernels()
        if native is not None and native.has_int8 and weight.device.type == "cpu":
            codes, scales, offsets = _pack(codes, scales)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("offsets", offsets)

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply `x` `[tokens, width]`, rounded to 8 bits, by the transposed matrix, to `[tokens, rows]`."""
        x = x.contiguous()
        native = kernels()
        if native is not None and self.offsets is not None and kernels_accept(x):
            return native.int8_product(x, self.codes, self.scales, self.offsets, self.rows)
        return (round_to_int8(x) @ self.dequantize(torch.float32).t()).to(x.dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix that the codes represent, `[rows, width]`, rounded once to `dtype`."""
        codes, scales = self.codes, self.scales
        if self.offsets is not None:
            strips, steps = codes.shape[:2]
            codes = codes.permute(0, 2, 1, 3).reshape(strips * LANES, steps * STEP)[: self.rows, : self.width]
            scales = scales[: self.rows, None]
        return (codes * scales).to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to(dtype), .half() and the like call this; with scales of fewer digits the matrix would be another one.
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
        return self


class Int8Linear(nn.Module):
    """y = x Wᵀ + bias with both products in 8 bits, frozen: it meets the contract of a base linear."""

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """Make both copies of `weight` `[out, in]`; neither tensor is changed.

        Raises:
            ModelError: the weight is not finite.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.by_output = Int8Matrix(weight)
        self.by_input = Int8Matrix(weight.t())
        # Cloned, because the caller's bias may be a view into a whole checkpoint file.
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight that forward multiplies by, `[out, in]` in `dtype`."""
        return self.by_output.dequantize(dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update), without gradients; the update is not rounded to 8 bits."""
        y = self.by_output.multiply(x)
        if self.bias is not None:
            y.add_(self.bias.to(y.dtype))
        return y if update is None else update.add_to_outputs(y)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto), `[tokens, out]` to `[tokens, in]`, by the copy with a scale for every input."""
        grad_x = self.by_input.multiply(grad)
        grad_x = grad_x if update is None else update.add_to_inputs(grad_x)
        return grad_x if onto is None else onto.add_(grad_x)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[tokens, in]` to `[tokens, out]` in its dtype; backward gives dx only."""
        return apply_frozen(self, x)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _pack(codes: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring codes and scales into the layout of native/int8.c, and add its offsets."""
    rows, width = codes.shape
    strips, steps = -(-rows // LANES), -(-width // STEP)
    padded = F.pad(codes, (0, -width % GROUP_ELEMENTS, 0, strips * LANES - rows))
    sums = padded.view(strips * LANES, -(-width // GROUP_ELEMENTS), GROUP_ELEMENTS).sum(2, dtype=torch.int32)
    ordered = padded[:, : steps * STEP].reshape(strips, LANES, steps, STEP).permute(0, 2, 1, 3).contiguous()
    return ordered, F.pad(scales.flatten(), (0, strips * LANES - rows)), sums.mul_(-128).t().contiguous()
