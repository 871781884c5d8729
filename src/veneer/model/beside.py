"""Two passes side by side, layer by layer: texts of the second pass continue texts of the first, and read their keys
and values instead of computing them again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from veneer.model.attention import Attention
from veneer.model.shape import AttentionSpec


class KeepingAttention:
    """An attention layout that keeps the keys and values of the layer that was computed last.

    Args:
        attention: the layout.
    """

    def __init__(self, attention: Attention):
        self._attention = attention
        self._kept: tuple[Tensor, Tensor] | None = None

    def kept(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the latest layer, `[tokens, kv_heads, head_dim]` each, without a gradient."""
        assert self._kept is not None, "no layer has been computed yet"
        return self._kept

    def forget(self) -> None:
        """Keep nothing until the next layer."""
        self._kept = None

    def text_lengths(self) -> Tensor:
        """See `TextLengths.text_lengths`."""
        return self._attention.text_lengths()

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """See `Attention.attend`."""
        self._kept = keys.detach(), values.detach()
        return self._attention.attend(layer, queries, keys, values, spec, sinks)


class BehindAttention:
    """Attention of tokens that also see tokens of another pass, which computes every layer first.

    Queries of the other pass's tokens are zeros here, and what they attend to is dropped: the layouts and the kernels
    know texts as a whole.

    Args:
        attention: layout of the whole texts, `[whole]` tokens.
        other: layout of the other pass.
        sources: int64 `[whole]`, the place of each token among those of the other pass followed by those of this one.
        own: int64 `[tokens]`, the places of this pass's tokens in the whole texts.
    """

    def __init__(self, attention: Attention, other: KeepingAttention, sources: Tensor, own: Tensor):
        self._attention, self._other, self._sources, self._own = attention, other, sources, own

    def text_lengths(self) -> Tensor:
        """See `TextLengths.text_lengths`."""
        return self._attention.text_lengths()[self._own.cpu()]

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """See `Attention.attend`; all shapes are those of this pass's tokens."""
        whole = queries.new_zeros((len(self._sources), *queries.shape[1:])).index_copy_(0, self._own, queries)
        parts = zip(self._other.kept(), (keys, values), strict=True)
        seen_keys, seen_values = (torch.cat(part).index_select(0, self._sources) for part in parts)
        mixed = self._attention.attend(layer, whole, seen_keys, seen_values, spec, sinks)
        return mixed.index_select(0, self._own)


@dataclass(frozen=True, slots=True)
class Pass:
    """The tokens of one pass through a decoder."""

    tokens: Tensor
    """int64 `[tokens]`"""
    positions: Tensor
    """int64 `[tokens]`"""
    attention: Attention
