"""Several packed sequences in one pass, each with its own attention layout and its own shared beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veneer.model.attention import PackedAttention, attend_compiled, by_compiled_kernel
from veneer.model.shape import AttentionSpec


class BlockAttention:
    """Attention layouts side by side.

    Args:
        layouts: the layout of each block.
        tokens: the number of tokens of each block, in order.
    """

    def __init__(self, layouts: Sequence[PackedAttention], tokens: Sequence[int]):
        self._layouts, self._tokens = list(layouts), list(tokens)

    def text_lengths(self) -> Tensor:
        """See `veneer.model.attention.TextLengths.text_lengths`."""
        return torch.cat([one.text_lengths() for one in self._layouts])

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """Attend within blocks; see `veneer.model.attention.Attention.attend`."""
        if by_compiled_kernel(queries, keys, values):
            return attend_compiled(self._layouts, queries, keys, values, spec, sinks)
        blocks = zip(*(torch.split(x, self._tokens) for x in (queries, keys, values)), strict=True)
        return torch.cat(
            [one.attend(layer, q, k, v, spec, sinks) for one, (q, k, v) in zip(self._layouts, blocks, strict=True)]
        )
