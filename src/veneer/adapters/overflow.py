"""Finds adapters whose numbers are finite but whose updates are not: the scaled B · A exceeds float32.

By Cauchy and Schwarz no element of B · A is larger than the longest row of B times the longest column of A, which costs
as little as reading both. Lengths are computed in float32 first, since nearly all adapters are far from its bounds. The
product is computed only if the lengths do not decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.names import FACTOR_PAIRS
from veneer.errors import AdapterError, listing
from veneer.finite import all_finite

LARGEST_FLOAT32 = torch.finfo(torch.float32).max
ROUNDING_FACTOR = 1.01
"""More than float32 loses of a length: a sum of n squares is off by at most n · 2⁻²⁴, and its root by half of that."""


def check_updates(tensors: Mapping[str, Tensor], scale_of: Callable[[str], float], source: str) -> None:
    """Refuse updates that are not finite in float32.

    Args:
        tensors: the tensors of an adapter, by the names of `Adapter.tensors()`.
        scale_of: a function that returns the scale of the update at a path.
        source: name of the adapter in the error.

    Raises:
        AdapterError: there are such updates; the message names all of them.
    """
    broken = []
    for name, a, b, scale in _updates(tensors, scale_of):
        if (
            ROUNDING_FACTOR * _bound(a, b, scale, torch.float32) <= LARGEST_FLOAT32
            or _bound(a, b, scale) <= LARGEST_FLOAT32
        ):
            continue
        if not (all_finite(a) and all_finite(b)):
            continue  # refused by its own name when the tensors are loaded
        largest = abs(scale) * float((b.double() @ a.double()).abs().max())
        if not largest <= LARGEST_FLOAT32:
            broken.append(f"{name}: B · A times {scale:g} reaches {largest:.3g}")
    if broken:
        raise AdapterError(
            f"{source} cannot be used: its numbers are finite, but their products exceed float32 "
            f"({LARGEST_FLOAT32:.3g}):\n{listing(broken)}\nUse an earlier checkpoint of its run, or train it again at "
            "a lower learning rate."
        )


def largest_update(adapter: Adapter) -> str:
    """The update whose numbers may be the largest, in words. It is the likeliest cause of an overflow."""
    updates = list(_updates(adapter.tensors(), adapter.spec.scale_of))
    if not updates:
        return "it updates no linear layer"
    name, bound = max(((name, _bound(a, b, scale)) for name, a, b, scale in updates), key=lambda one: one[1])
    return f"its largest update is {name}, whose numbers reach at most {bound:.3g}"


def _updates(
    tensors: Mapping[str, Tensor], scale_of: Callable[[str], float]
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """The name of B, A `[rank, in]`, B `[out, rank]` and the scale of every update."""
    for first, second in FACTOR_PAIRS:
        for name, a in tensors.items():
            path = name.removesuffix(f".{first}")
            b = tensors.get(f"{path}.{second}")
            if path != name and b is not None:
                yield f"{path}.{second}", a.detach(), b.detach(), scale_of(path)


def _bound(a: Tensor, b: Tensor, scale: float, dtype: torch.dtype = torch.float64) -> float:
    """A number that no element of scale · B · A exceeds; float32 rounds it, and squares may leave that."""
    rows, columns = b.to(dtype).square().sum(dim=1).max(), a.to(dtype).square().sum(dim=0).max()
    return abs(scale) * math.sqrt(float(rows)) * math.sqrt(float(columns))
