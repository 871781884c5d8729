"""A key/value cache for generating many rows at once.

Each layer has keys and values `[rows, kv_heads, capacity, head_dim]`, filled from the left: a row's new keys are
written after its earlier ones. Prompts enter packed (`prefill`), without padding. Afterwards each row adds one token
per step (`step`). `keep` drops rows that have ended, so that they cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veneer.model.attention import PackedAttention
from veneer.model.shape import AttentionSpec, DecoderSpec
from veneer.model.windowed import softcapped, softmax_beside
from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels

STEP_TOKENS = 64
"""On a GPU a step reads a multiple of this many tokens, so that its operations have the same shapes for as many
steps."""


class KVCache:
    """Keys and values of `rows` sequences of at most `capacity` tokens."""

    def __init__(
        self, spec: DecoderSpec, rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ):
        shape = (rows, spec.num_kv_heads, capacity, spec.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        """Where the next token of each row goes, int64 `[rows]`.

        A row that has ended may stay in the batch. It then stays at its last place, and writes values that nobody
        reads.
        """
        self.longest = 0
        """The largest of `lengths`, known without waiting for a GPU."""
        self.capacity = capacity

    def advance(self, lengths: Tensor, longest: int) -> None:
        """Set `lengths`, the largest of which is `longest`."""
        self.lengths, self.longest = lengths.clamp(max=self.capacity - 1), min(longest, self.capacity - 1)

    @property
    def span(self) -> int:
        """How many of its first tokens a row's next one is compared with; those that a row has not yet are masked."""
        needed = self.longest + 1
        return min(self.capacity, -(-needed // STEP_TOKENS) * STEP_TOKENS) if self.lengths.is_cuda else needed

    def prefill(self, lengths: Sequence[int]) -> PrefillAttention:
        """The attention layout for packed prompts, one document for each row, in row order."""
        return PrefillAttention(self, lengths)

    def step(self) -> StepAttention:
        """The attention layout for one new token in each row. Advances every row by one."""
        layout = StepAttention(self)
        self.advance(self.lengths + 1, self.longest + 1)
        return layout

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not in `rows` (int64 indices)."""
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())
        # One layer after another, so that at most one layer is in memory twice.
        for layers in (self.keys, self.values):
            for number, layer in enumerate(layers):
                layers[number] = layer[rows]


class PrefillAttention:
    """Attention within packed prompts, whose keys and values are written into empty rows of the cache."""

    def __init__(self, cache: KVCache, lengths: Sequence[int]):
        self._cache = cache
        self._packed = PackedAttention(lengths)
        device = cache.lengths.device
        counts = torch.tensor(lengths, device=device)
        # With a known size, this does not wait for a GPU.
        self._rows = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), counts, output_size=sum(lengths)
        )
        self._columns = torch.cat([torch.arange(length, device=device) for length in lengths])
        cache.advance(counts, max(lengths))

    def text_lengths(self) -> Tensor:
        """See `veneer.model.attention.TextLengths.text_lengths`."""
        return self._packed.text_lengths()

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """See `veneer.model.attention.Attention.attend`."""
        self._cache.keys[layer][self._rows, :, self._columns] = keys
        self._cache.values[layer][self._rows, :, self._columns] = values
        return self._packed.attend(layer, queries, keys, values, spec, sinks)


class StepAttention:
    """Attention of one new token in each row to all tokens of the row."""

    def __init__(self, cache: KVCache):
        self._cache = cache
        self._positions = cache.lengths
        self._span = cache.span
        self._columns = torch.arange(self._span, device=cache.lengths.device)
        self._masks: dict[int | None, Tensor] = {}
        self._rows = torch.arange(len(self._positions), device=cache.lengths.device)
        self._seen = self._positions + 1

    def text_lengths(self) -> Tensor:
        """See `veneer.model.attention.TextLengths.text_lengths`."""
        return self._seen

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """See `veneer.model.attention.Attention.attend`. There is one token for each row: `[rows, heads, head_dim]`."""
        cache = self._cache
        cache.keys[layer][self._rows, :, self._positions] = keys
        cache.values[layer][self._rows, :, self._positions] = values
        native, scale = kernels(), spec.of(queries.shape[-1])
        window = spec.window_within(self._span)
        plain = window is None and spec.softcap is None and sinks is None
        if plain and native is not None and kernels_accept(queries, cache.keys[layer], cache.values[layer]):
            return native.attention_step(queries, cache.keys[layer], cache.values[layer], self._seen, scale)
        return self._attend_padded(layer, queries, keys, AttentionSpec(scale, window, spec.softcap), sinks)

    def _mask(self, window: int | None) -> Tensor:
        """0 where a row sees a column and −∞ where it does not, float32 `[rows, columns]`."""
        if window not in self._masks:
            hidden = self._columns[None, :] > self._positions[:, None]
            if window is not None:
                hidden |= self._columns[None, :] <= self._positions[:, None] - window
            mask = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
            self._masks[window] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[window]

    def _attend_padded(
        self, layer: int, queries: Tensor, keys: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """`attend` in torch's own operations.

        The query heads of one key head are grouped, so that their scores are one batched product and no key is copied.
        """
        cache = self._cache
        rows, heads, dim = queries.shape
        kv_heads = keys.shape[1]
        grouped = queries.view(rows, kv_heads, heads // kv_heads, dim) * spec.of(dim)
        past_keys = cache.keys[layer][:, :, : self._span]
        past_values = cache.values[layer][:, :, : self._span]
        scores = softcapped(torch.matmul(grouped, past_keys.transpose(-1, -2)).float(), spec.softcap)
        scores = scores + self._mask(spec.window)[:, None, None, :]
        weights = softmax_beside(scores, None if sinks is None else sinks.view(1, kv_heads, heads // kv_heads, 1))
        mixed = torch.matmul(weights.to(queries.dtype), past_values)
        return mixed.reshape(rows, heads, dim)
