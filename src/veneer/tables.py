"""`TokenTable`: the weight of an embedding or a head, with a row for each token, in any form in memory.

Some weights are held as a file stores them (`veneer.quant.tables`). Code that needs their numbers requests single rows
or all of them, and gets them in the compute dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class TokenTable(Protocol):
    """A weight `[vocab_size, dim]`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and their width."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the numbers that the table returns."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the weight."""
        ...

    def rows(self, tokens: Tensor) -> Tensor:
        """The rows of token ids `[tokens]`, `[tokens, dim]`."""
        ...

    def part(self, start: int, stop: int) -> Tensor:
        """The rows from `start` to `stop`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)  # tensors compare number by number, which does not compare tables
class DenseTable:
    """A weight that is a tensor (`TokenTable`)."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """See `TokenTable`."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """See `TokenTable`."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """See `TokenTable`."""
        return self.weight.device

    def rows(self, tokens: Tensor) -> Tensor:
        """See `TokenTable`."""
        return self.weight[tokens]

    def part(self, start: int, stop: int) -> Tensor:
        """See `TokenTable`."""
        return self.weight[start:stop]


class HoldsTable(ABC):
    """A module whose weight is a table."""

    @property
    @abstractmethod
    def table(self) -> TokenTable:
        """The weight."""


class TokenLookup(nn.Module, HoldsTable):
    """A token embedding: it looks up rows of its table."""

    @abstractmethod
    def tied_head(self) -> nn.Module:
        """A head with the same weight, which is in memory only once."""

    @abstractmethod
    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up token ids `[tokens]`: their rows, `[tokens, dim]` in `dtype`."""


PART = 4096
"""The number of rows that are copied or compared at a time."""


def parts(table: TokenTable, rows: int = PART) -> Iterator[tuple[slice, Tensor]]:
    """The table in pieces of at most `rows` rows, each with its place."""
    for start in range(0, table.shape[0], rows):
        stop = min(start + rows, table.shape[0])
        yield slice(start, stop), table.part(start, stop)


@torch.no_grad()
def copied_table(table: TokenTable, dtype: torch.dtype, rows: int | None = None) -> Tensor:
    """A copy of the table in `dtype`, with room for `rows` rows; those beyond the table's own are uninitialised."""
    found = torch.empty((rows or table.shape[0], table.shape[1]), dtype=dtype, device=table.device)
    for place, part in parts(table):
        found[place] = part
    return found
