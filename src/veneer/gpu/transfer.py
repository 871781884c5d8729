"""Sending tensors from the main memory to a card without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`.

    The copy to a card is made from pinned memory, so that the program goes on at once: a copy from other memory waits
    for all work that the card was given before. torch uses the pinned memory again only after the copy.
    """
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
