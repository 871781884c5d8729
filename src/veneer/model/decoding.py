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
    """Prompts enter packed; afterwards each row adds one token a step.

    Args:
        hidden: of the model.
        make: an empty cache for so many rows.
        outgrown: lengths of a text beyond which LongRoPE turns all of it otherwise, so that no key that was kept holds
            any more: the step that leaves one of them computes the rows anew.
    """

    def __init__(self, hidden: Hidden, make: Callable[[int], KVCache], outgrown: frozenset[int] = frozenset()):
        self._hidden, self._make, self._outgrown = hidden, make, outgrown
        self._texts: list[Tensor] = []

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Hidden states of each prompt's last token, `[rows, dim]`; see `Decoding`."""
        self._cache = self._make(len(lengths))
        if self._outgrown:
            self._texts = list(torch.split(tokens, list(lengths)))
        positions = torch.cat([torch.arange(length, device=tokens.device) for length in lengths])
        hidden = self._hidden(tokens, positions, self._cache.prefill(lengths))
        return hidden[torch.tensor(lengths, device=tokens.device).cumsum(0) - 1]

    def widths(self) -> list[int]:
        """Tokens of each row that the next step computes; see `Decoding`."""
        lengths: list[int] = self._cache.lengths.tolist()
        return [length + 1 for length in lengths] if self._outgrown & set(lengths) else [1] * len(lengths)

    def step(self, tokens: Tensor) -> Tensor:
        """Hidden states of one more token a row, `[rows, dim]`; see `Decoding`."""
        positions = self._cache.lengths
        if self._outgrown:
            self._texts = [torch.cat((text, token[None])) for text, token in zip(self._texts, tokens, strict=True)]
            if self._outgrown & set(positions.tolist()):
                return self.prefill(torch.cat(self._texts), [len(text) for text in self._texts])
        return self._hidden(tokens, positions, self._cache.step())

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        self._cache.keep(rows)
        if self._outgrown:
            self._texts = [self._texts[row] for row in rows.tolist()]
