"""Exchanges between processes whose amounts differ: each sends its own numbers, or rank 0 sends bytes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from veneer.processes.group import Group

Floats = NDArray[np.float64]


def everybodys(group: Group, own: Floats) -> list[Floats]:
    """The numbers of every rank, by rank.

    Args:
        group: the connected processes.
        own: the numbers of this rank, [n], where n may differ between ranks.
    """
    sizes = group.gather(torch.tensor([float(len(own))], dtype=torch.float64))[:, 0].long().tolist()
    filled = torch.zeros(max(sizes), dtype=torch.float64)
    filled[: len(own)] = torch.from_numpy(own)
    every = group.gather(filled)
    return [numbers[:size].numpy() for numbers, size in zip(every, sizes, strict=True)]


def from_first(group: Group, content: bytes) -> bytes:
    """Bytes of rank 0, on every rank; the `content` of other ranks is ignored."""
    if not group.ranks.many:
        return content
    size = torch.tensor([len(content)])
    group.broadcast(size)
    found = torch.zeros(int(size), dtype=torch.uint8)
    if group.ranks.first and content:
        found.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    group.broadcast(found)
    return found.numpy().tobytes()
