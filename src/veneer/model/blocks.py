"""Several packs in one pass: each attends by a layout of its own, and so may share a beginning of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veneer.model.attention import Attention
from veneer.model.shape import PLAIN, Mixing


class BlockAttention:
    """Layouts side by side.

    Args:
        layouts: of each block.
        tokens: of each block, in the same order.
    """

    def __init__(self, layouts: Sequence[Attention], tokens: Sequence[int]):
        self._layouts, self._tokens = list(layouts), list(tokens)

    def text_lengths(self) -> Tensor:
        """See `veneer.model.attention.Attention.text_lengths`."""
        return torch.cat([one.text_lengths() for one in self._layouts])

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, mixing: Mixing = PLAIN) -> Tensor:
        """Attend within blocks; see `veneer.model.attention.Attention.attend`."""
        blocks = zip(*(torch.split(x, self._tokens) for x in (queries, keys, values)), strict=True)
        return torch.cat(
            [one.attend(layer, q, k, v, mixing) for one, (q, k, v) in zip(self._layouts, blocks, strict=True)]
        )
