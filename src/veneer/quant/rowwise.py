"""RowwiseLinear: a frozen linear layer whose weight is held in 8 bits and multiplied in the dtype of its input.

The format is LLM.int8's (Dettmers et al., 2022, arXiv:2208.07339), as transformers and bitsandbytes store it: a code
for every weight and, for every output, the largest magnitude of its row (`SCB`); weight ≈ code · SCB / 127. Codes are
bit for bit those of bitsandbytes on a CPU, which rounds the weight to float16 first.

`Int8Linear` (`veneer.quant.int8`) is different: it *computes* in 8 bits, with two copies of the weight and its own
scales. Here only the weight is rounded; activations and products are as exact as with NF4.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from veneer.errors import ModelError
from veneer.native.stored import Format, StoredMatrix
from veneer.quant.packed import PackedLinear, expect, result_buffer

LARGEST_CODE = 127.0
CODE_STEP = 7.874015718698502e-3
"""1 / 127 as bitsandbytes writes it; in float32 it is the nearest to 1 / 127."""
CHUNK_ELEMENTS = 1 << 18
"""How many elements are coded or decoded at once, in whole rows, so that temporaries stay in the processor's cache."""
DEVICE_CHUNK_ELEMENTS = 1 << 24
"""The number of elements that are coded or decoded at once on a GPU, where a launch costs more than a few rows."""


@torch.no_grad()
def quantize_rowwise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise `weight` [out, in] (float32, bfloat16 or float16) to 8 bits with a scale for every row.

    Returns codes, int8 [out, in], and the largest magnitude of each row, float32 [out]. Both come from the weight
    rounded to float16. Codes are rounded to the nearest, halves to even. A row of zeros has codes and a scale of zero.

    Raises:
        ModelError: the weight has another dtype or shape, or is not finite in float16.
    """
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError(f"cannot quantise a {weight.dtype} tensor; convert it to float32, bfloat16 or float16")
    if weight.dim() != 2 or weight.numel() == 0:
        raise ModelError(f"a linear layer's weight must have two dimensions, both above 0; got {list(weight.shape)}")
    rows, width = weight.shape
    codes = torch.empty((rows, width), dtype=torch.int8, device=weight.device)
    largest = torch.empty(rows, dtype=torch.float32, device=weight.device)
    broken = 0
    step = _rows_at_once(weight)
    for start in range(0, rows, step):
        part = weight.detach()[start : start + step].to(torch.float16)
        scales = largest[start : start + step]
        scales.copy_(part.abs().amax(1))
        # They are counted only if a scale shows that there are any: NaN and infinity reach the scale.
        if not bool(scales.isfinite().all()):
            broken += int((~part.isfinite()).sum())
            continue
        inverse = torch.where(scales > 0, LARGEST_CODE / scales, 0.0)
        codes[start : start + step] = part.float().mul_(inverse.unsqueeze(1)).round_().to(torch.int8)
    if broken:
        raise ModelError(
            f"cannot quantise: {broken} of {rows * width} weights are NaN or infinite in float16, to which LLM.int8 "
            "rounds them; if the weights are finite but beyond 65,504, use scheme nf4"
        )
    return codes, largest


@torch.no_grad()
def dequantize_rowwise(codes: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode int8 [out, in] with float32 scales [out], into the contiguous buffer `out` if given.

    A weight is code · scale · (1/127), multiplied in this order in float32 and rounded once to `dtype`.
    """
    rows, width = codes.shape
    out = result_buffer(out, codes.shape, dtype, codes.device)
    step = _rows_at_once(codes)
    scratch = torch.empty((min(rows, step), width), dtype=torch.float32, device=codes.device)
    for start in range(0, rows, step):
        part = codes[start : start + step]
        wide = scratch[: len(part)].copy_(part).mul_(scales[start : start + step].unsqueeze(1)).mul_(CODE_STEP)
        out[start : start + step] = wide
    return out


def _rows_at_once(matrix: Tensor) -> int:
    return max(1, (CHUNK_ELEMENTS if matrix.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS) // matrix.shape[1])


class RowwiseLinear(PackedLinear):
    """A frozen linear layer in LLM.int8's format.

    Buffers: `weight` int8 [out, in], `SCB` float32 [out], under the names that transformers stores them, and `bias`
    [out] or None.
    """

    exact: ClassVar[frozenset[str]] = frozenset({"SCB"})
    weight: Tensor
    SCB: Tensor

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        """Wrap codes and scales; the tensors are kept, not copied.

        Raises:
            ModelError: they do not fit.
        """
        if weight.dim() != 2:
            raise ModelError(f"a linear layer's weight has two dimensions; got shape {list(weight.shape)}")
        shape = (weight.shape[0], weight.shape[1])
        super().__init__(shape, bias)
        expect("codes", weight, torch.int8, shape)
        expect("scales", scales, torch.float32, shape[:1])
        self.register_buffer("weight", weight)
        self.register_buffer("SCB", scales)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Self:
        """Quantise `weight` [out, in]; neither tensor is changed.

        Raises:
            ModelError: see `quantize_rowwise`.
        """
        # Cloned, because the caller's bias may be a view into a whole checkpoint file.
        return cls(*quantize_rowwise(weight), None if bias is None else bias.detach().clone())

    def decode(self, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, into `out` if given."""
        return dequantize_rowwise(self.weight, self.SCB, dtype, out)

    def weight_as_stored(self) -> StoredMatrix:
        """See `PackedLinear`."""
        return StoredMatrix(
            format=Format.INT8, columns=self.out_features, depth=self.in_features, codes=self.weight, scales=self.SCB
        )
