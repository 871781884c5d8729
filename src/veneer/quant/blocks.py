"""BlockLinear: a frozen linear layer whose weight is held in the blocks of a GGUF file, byte for byte.

A row of the weight is cut into blocks of 32 weights. A block begins with a float16 scale d; native/blocks.h has the
layout of the rest:

    Q8_0   w = q · d          q a signed byte
    Q4_0   w = (q − 8) · d    q four bits
    Q4_1   w = q · d + m      q four bits, m a second float16

In float32 the products are exact, so that a weight is rounded at most once, and once more to the requested dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from veneer.errors import ModelError
from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels
from veneer.native.stored import Format, StoredMatrix
from veneer.quant.packed import PackedLinear, expect, result_buffer

WEIGHTS_PER_BLOCK = 32
"""How many weights a block has."""
CHUNK_WEIGHTS = 1 << 18
"""How many weights are decoded at once in torch's operations, in whole rows."""


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """The number of numbers before the codes of a block, and the number of bytes of the codes."""

    halves: int
    codes: int

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return 2 * self.halves + self.codes


LAYOUTS = {Format.Q4_0: BlockLayout(1, 16), Format.Q4_1: BlockLayout(2, 16), Format.Q8_0: BlockLayout(1, 32)}


def row_bytes(kind: Format, columns: int) -> int:
    """The number of bytes of a row of `columns` weights.

    Raises:
        ModelError: the row cannot be divided into blocks.
    """
    if kind not in LAYOUTS or columns % WEIGHTS_PER_BLOCK:
        raise ModelError(f"rows of {columns} weights cannot be held in blocks of {WEIGHTS_PER_BLOCK} as {kind.name}")
    return columns // WEIGHTS_PER_BLOCK * LAYOUTS[kind].bytes


@torch.no_grad()
def decode_blocks(blocks: Tensor, kind: Format, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode blocks, uint8 `[out, row_bytes]`, to `[out, in]` in `dtype`, into the contiguous buffer `out` if given."""
    layout = LAYOUTS[kind]
    rows, columns = blocks.shape[0], blocks.shape[1] // layout.bytes * WEIGHTS_PER_BLOCK
    out = result_buffer(out, (rows, columns), dtype, blocks.device)
    native = kernels()
    if native is not None and kernels_accept(out) and blocks.device.type == "cpu":
        native.decode_stored(StoredMatrix(format=kind, columns=rows, depth=columns, codes=blocks), out)
        return out
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        out[start : start + step] = _decoded(blocks[start : start + step], kind)
    return out


def _decoded(blocks: Tensor, kind: Format) -> Tensor:
    """Decode some rows to float32 in torch's own operations, which serve every device."""
    layout = LAYOUTS[kind]
    parts = blocks.view(len(blocks), -1, layout.bytes)
    head, codes = parts[..., : 2 * layout.halves].contiguous().view(torch.float16).float(), parts[..., -layout.codes :]
    scale = head[..., :1]
    if kind is Format.Q8_0:
        return (codes.contiguous().view(torch.int8) * scale).flatten(1)
    halves = torch.cat((codes & 15, codes >> 4), -1).float()
    return (halves * scale + head[..., 1:] if kind is Format.Q4_1 else (halves - 8.0) * scale).flatten(1)


class BlockLinear(PackedLinear):
    """A frozen linear layer in a format of GGUF.

    Buffers: `blocks` uint8 [out, row_bytes] and `bias` [out] or None.
    """

    blocks: Tensor

    def __init__(self, blocks: Tensor, kind: Format, columns: int, bias: Tensor | None = None) -> None:
        """Wrap the blocks of a weight [out, columns]; the tensor is kept, not copied.

        Raises:
            ModelError: the tensor has another shape or dtype.
        """
        super().__init__((blocks.shape[0], columns), bias)
        expect("blocks", blocks, torch.uint8, (blocks.shape[0], row_bytes(kind, columns)))
        self.kind = kind
        self.register_buffer("blocks", blocks)

    def decode(self, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, into `out` if given."""
        return decode_blocks(self.blocks, self.kind, dtype, out)

    def weight_as_stored(self) -> StoredMatrix:
        """See `PackedLinear`."""
        return StoredMatrix(format=self.kind, columns=self.out_features, depth=self.in_features, codes=self.blocks)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return f"{super().extra_repr()}, {self.kind.name}"
