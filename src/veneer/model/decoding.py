"""Generation with veneer's own decoder and a key/value cache (`veneer.model.language.Decoding`).

The model's modules compute every token. Models that have a compiled step (`veneer.model.compiled_step`) are decoded by
that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from veneer.model.attention import Attention
from veneer.model.cache import KVCache

Hidden = Callable[[Tensor, Tensor, Attention], Tensor]
"""A function of tokens, positions and an attention layout that returns hidden states `[tokens, dim]`."""
RowFunction = Callable[[Tensor], Tensor]
"""A function that treats each row separately."""


class CachedDecoding:
    """Decoding with a key/value cache: prompts enter packed, then each row adds one token per step.

    Args:
        hidden: computes the model's hidden states.
        logits: computes the model's logits from hidden states.
        make: makes an empty cache for a number of rows.
        outgrown: lengths beyond which LongRoPE rotates the whole text by other angles. All cached keys are then
            invalid, so that the step that passes such a length computes all rows again.
    """

    def __init__(
        self,
        hidden: Hidden,
        logits: RowFunction,
        make: Callable[[int], KVCache],
        outgrown: frozenset[int],
    ):
        self._hidden, self._logits, self._make, self._outgrown = hidden, logits, make, outgrown
        self._texts: list[Tensor] = []

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Logits of each prompt's last token, `[rows, vocab_size]`. See `Decoding.prefill`."""
        self._cache = self._make(len(lengths))
        if self._outgrown:
            self._texts = list(torch.split(tokens, list(lengths)))
        positions = torch.cat([torch.arange(length, device=tokens.device) for length in lengths])
        hidden = self._hidden(tokens, positions, self._cache.prefill(lengths))
        return self._logits(last_of_each(hidden, lengths))

    def widths(self) -> list[int]:
        """Numbers of tokens that the next step computes for each row. See `Decoding.widths`."""
        rows = len(self._cache.lengths)
        if not self._outgrown:
            return [1] * rows  # without a request to the GPU
        lengths: list[int] = self._cache.lengths.tolist()
        return [length + 1 for length in lengths] if self._outgrown & set(lengths) else [1] * rows

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of one more token for each row, `[rows, vocab_size]`. See `Decoding.step`."""
        positions = self._cache.lengths
        if self._outgrown:
            self._texts = grown(self._texts, tokens, self._cache.capacity)
            if self._outgrown & set(positions.tolist()):
                return self.prefill(torch.cat(self._texts), [len(text) for text in self._texts])
        return self._logits(self._hidden(tokens, positions, self._cache.step()))

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        self._cache.keep(rows)
        if self._outgrown:
            self._texts = [self._texts[row] for row in rows.tolist()]


def last_of_each(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """The row of each text's last token, for texts of these lengths one after another."""
    return hidden[torch.tensor(lengths, device=hidden.device).cumsum(0) - 1]


def grown(texts: Sequence[Tensor], tokens: Tensor, capacity: int) -> list[Tensor]:
    """Texts with one more token each. A text that has ended but is still in the batch stays at its capacity."""
    return [torch.cat((text, token[None]))[:capacity] for text, token in zip(texts, tokens, strict=True)]
