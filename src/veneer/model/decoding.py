"""Rows continued token by token with a key/value cache: `veneer.model.language.Decoding` over the flat decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from veneer.model.attention import Attention
from veneer.model.cache import KVCache

Hidden = Callable[[Tensor, Tensor, Attention], Tensor]
"""Hidden states `[tokens, dim]` of tokens at positions under a layout."""


class CachedDecoding:
    """Prompts enter packed; afterwards each row adds one token a step."""

    def __init__(self, hidden: Hidden, cache: KVCache):
        self._hidden, self._cache = hidden, cache

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Hidden states of each prompt's last token, `[rows, dim]`; see `Decoding`."""
        positions = torch.cat([torch.arange(length, device=tokens.device) for length in lengths])
        hidden = self._hidden(tokens, positions, self._cache.prefill(lengths))
        return hidden[torch.tensor(lengths, device=tokens.device).cumsum(0) - 1]

    def step(self, tokens: Tensor) -> Tensor:
        """Hidden states of one more token a row, `[rows, dim]`; see `Decoding`."""
        positions = self._cache.lengths
        return self._hidden(tokens, positions, self._cache.step())

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        self._cache.keep(rows)
