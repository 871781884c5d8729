"""A key/value cache for generating many rows at once.

Every row owns a line of the cache `[rows, kv_heads, capacity, head_dim]` a layer, filled from the left; a row's new
keys are written behind those it has. Prompts enter packed (`prefill`), without padding; afterwards each row adds one
token a step (`step`). Rows that have ended are dropped with `keep`, so that finished rows cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veneer.model.attention import PackedAttention
from veneer.model.spec import DecoderSpec
from veneer.native.library import kernels, usable


class KVCache:
    """Keys and values of `rows` sequences of at most `capacity` tokens."""

    def __init__(
        self, spec: DecoderSpec, rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ):
        shape = (rows, spec.num_kv_heads, capacity, spec.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def prefill(self, lengths: Sequence[int]) -> PrefillAttention:
        """The layout for packed prompts, one document a row, in row order."""
        return PrefillAttention(self, lengths)

    def step(self) -> StepAttention:
        """The layout for one new token a row; advances every row by one."""
        layout = StepAttention(self)
        self.lengths = self.lengths + 1
        return layout

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not in `rows` (int64 indices)."""
        self.lengths = self.lengths[rows]
        self.keys = [layer[rows] for layer in self.keys]
        self.values = [layer[rows] for layer in self.values]


class PrefillAttention:
    """Attend within packed prompts and write their keys and values into empty rows of the cache."""

    def __init__(self, cache: KVCache, lengths: Sequence[int]):
        self._cache = cache
        self._packed = PackedAttention(lengths)
        device = cache.lengths.device
        counts = torch.tensor(lengths, device=device)
        self._rows = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)
        self._columns = torch.cat([torch.arange(length, device=device) for length in lengths])
        cache.lengths = counts

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `veneer.model.attention.Attention.attend`."""
        self._cache.keys[layer][self._rows, :, self._columns] = keys
        self._cache.values[layer][self._rows, :, self._columns] = values
        return self._packed.attend(layer, queries, keys, values)


class StepAttention:
    """One new token a row against everything that the row has seen."""

    def __init__(self, cache: KVCache):
        self._cache = cache
        self._positions = cache.lengths
        self._span = int(cache.lengths.max()) + 1
        columns = torch.arange(self._span, device=cache.lengths.device)
        hidden = columns[None, :] > self._positions[:, None]
        self._mask = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        self._mask.masked_fill_(hidden, float("-inf"))
        self._rows = torch.arange(len(self._positions), device=columns.device)
        self._seen = self._positions + 1

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `veneer.model.attention.Attention.attend`; `[rows, heads, head_dim]`."""
        cache = self._cache
        cache.keys[layer][self._rows, :, self._positions] = keys
        cache.values[layer][self._rows, :, self._positions] = values
        native = kernels()
        if native is not None and usable(queries, cache.keys[layer], cache.values[layer]):
            scale = queries.shape[-1] ** -0.5
            return native.attention_step(queries, cache.keys[layer], cache.values[layer], self._seen, scale)
        return self._attend_padded(layer, queries, keys)

    def _attend_padded(self, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
        """In torch's own operations.

        The query heads of one key head stand side by side, so that grouped queries are one batched product and no key
        is copied.
        """
        cache = self._cache
        rows, heads, dim = queries.shape
        kv_heads = keys.shape[1]
        grouped = queries.view(rows, kv_heads, heads // kv_heads, dim) * dim**-0.5
        past_keys = cache.keys[layer][:, :, : self._span]
        past_values = cache.values[layer][:, :, : self._span]
        scores = torch.matmul(grouped, past_keys.transpose(-1, -2)).float() + self._mask[:, None, None, :]
        mixed = torch.matmul(torch.softmax(scores, dim=-1).to(queries.dtype), past_values)
        return mixed.reshape(rows, heads, dim)
