"""Embedding and head in the blocks of a GGUF file, byte for byte, for models that answer.

The embedding decodes the requested rows. With few rows, the head multiplies by the blocks directly; with many rows the
blocks are decoded in pieces that fit the processor's cache, so that there is never a decoded copy of the whole. A tied
head shares the embedding's blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels
from veneer.native.stored import Format, HoldsStored, StoredLinear, StoredMatrix
from veneer.products import (
    FEWEST_ROWS,
    LowRank,
    apply_frozen,
    linear,
    linear_input_grad,
    stored_linear,
    stored_linear_input_grad,
)
from veneer.quant.blocks import decode_blocks, row_bytes
from veneer.quant.packed import expect
from veneer.tables import HoldsTable, TokenLookup, parts

PIECE_ROWS = 2048
"""How many rows of the head are decoded for a product at a time."""


@dataclass(frozen=True, slots=True)
class BlockTable:
    """A weight in blocks (`veneer.tables.TokenTable`). The numbers that it returns are rounded once, to `dtype`."""

    blocks: Tensor
    """The blocks, uint8 `[vocab_size, row_bytes]`, on the CPU."""
    kind: Format
    columns: int
    dtype: torch.dtype
    """The compute dtype."""

    def __post_init__(self) -> None:
        """Raise ModelError if the blocks are not those of rows of `columns` weights."""
        expect("blocks", self.blocks, torch.uint8, (self.blocks.shape[0], row_bytes(self.kind, self.columns)))

    @property
    def shape(self) -> tuple[int, int]:
        """See `TokenTable`."""
        return self.blocks.shape[0], self.columns

    @property
    def device(self) -> torch.device:
        """See `TokenTable`."""
        return self.blocks.device

    def rows(self, tokens: Tensor) -> Tensor:
        """See `TokenTable`: only these rows are decoded."""
        return decode_blocks(self.blocks.index_select(0, tokens), self.kind, self.dtype)

    def part(self, start: int, stop: int) -> Tensor:
        """See `TokenTable`."""
        return decode_blocks(self.blocks[start:stop], self.kind, self.dtype)

    def stored(self) -> StoredMatrix:
        """The weight as it is stored, for kernels."""
        return StoredMatrix(format=self.kind, columns=self.blocks.shape[0], depth=self.columns, codes=self.blocks)


class BlockEmbedding(TokenLookup):
    """A frozen token embedding in blocks."""

    def __init__(self, table: BlockTable):
        super().__init__()
        self._table = table

    @property
    def table(self) -> BlockTable:
        """See `HoldsTable`."""
        return self._table

    def tied_head(self) -> BlockHead:
        """See `TokenLookup`."""
        return BlockHead(self._table)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """See `TokenLookup`; the rows are rounded to the compute dtype, as those of a decoded embedding."""
        return self._table.rows(tokens).to(dtype)


class BlockHead(nn.Module, HoldsStored, HoldsTable):
    """A frozen head in blocks: a base linear (contract 1 in docs/design.md) without a bias."""

    bias: Tensor | None = None

    def __init__(self, table: BlockTable):
        super().__init__()
        self._table = table
        self.out_features, self.in_features = table.shape

    @property
    def table(self) -> BlockTable:
        """See `HoldsTable`."""
        return self._table

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`."""
        return StoredLinear(weight=self._table.stored())

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`, rounded to the compute dtype before."""
        return self._table.part(0, self.out_features).to(dtype)

    @torch.no_grad()
    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ update), `[rows, in_features]` to `[rows, out_features]` in the dtype of x; no gradients."""
        if x.dtype is torch.float32:
            return stored_linear(x, self, update)
        native = kernels()
        if native is not None and len(x) < FEWEST_ROWS and kernels_accept(x):
            products = native.step_products(x.dtype)
            y = native.rows_product(x.float(), self._table.stored(), products=products).to(x.dtype)
            return y if update is None else update.add_to_outputs(y)
        y = x.new_empty((len(x), self.out_features))
        for place, weight in parts(self._table, PIECE_ROWS):
            own = None if update is None else LowRank(update.left, update.right[place], update.scale)
            y[:, place] = linear(x, weight.to(x.dtype), None, own)
        return y

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto), `[rows, out_features]` to `[rows, in_features]`."""
        if grad.dtype is torch.float32:
            return stored_linear_input_grad(grad, self, update, onto)
        return linear_input_grad(grad, self.dequantize(grad.dtype), update, onto)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ."""
        return apply_frozen(self, x)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._table.kind.name}"
