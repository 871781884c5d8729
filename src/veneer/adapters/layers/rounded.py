"""The factors of an adapter in 16 bits, rounded once per step.

A and B are float32, and every product needs them in the compute dtype. Rounding them at each product would need two
operations in forward and two in backward, for every layer and micro-batch; here it needs a few per step. The copies
take two bytes per trained number (84 MB for an 8B model at rank 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rounded:
    """A and B of one layer in the compute dtype, and which A and B they were rounded from."""

    a: Tensor
    b: Tensor
    versions: tuple[int, int]
    """torch's counts of the changes of A and B until then."""

    def stands_for(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
        """Whether A and B have not changed since."""
        return self.a.dtype == dtype and self.versions == (a._version, b._version)


class RoundedFactors:
    """Room for the factors of layers in 16 bits: one buffer, all A before all B, in the order of the layers.

    So the A of consecutive layers with inputs of equal width are one matrix without a copy (`stacked`).

    Args:
        pairs: A and B of each layer, float32 on one device.
        dtype: the compute dtype.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype):
        self._factors = [a for a, _ in pairs] + [b for _, b in pairs]
        sizes = [factor.numel() for factor in self._factors]
        room = torch.empty(sum(sizes), dtype=dtype, device=self._factors[0].device)
        parts = torch.split(room, sizes)
        self._copies = [part.view_as(factor) for part, factor in zip(parts, self._factors, strict=True)]

    @torch.no_grad()
    def refresh(self) -> list[Rounded]:
        """Round all factors as they are now, and return the copies of each layer."""
        torch._foreach_copy_(self._copies, [factor.detach() for factor in self._factors])
        half = len(self._copies) // 2
        versions = [factor._version for factor in self._factors]
        return [
            Rounded(self._copies[at], self._copies[half + at], (versions[at], versions[half + at]))
            for at in range(half)
        ]


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Matrices `[r, in]` of one width, stacked to `[sum of r, in]`: a view if they are contiguous in memory."""
    first = parts[0]
    end = first.storage_offset()
    place = first.untyped_storage()._cdata
    for part in parts:
        if part.untyped_storage()._cdata != place or part.storage_offset() != end or not part.is_contiguous():
            return torch.cat(list(parts))
        end += part.numel()
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1), int(first.storage_offset()))
