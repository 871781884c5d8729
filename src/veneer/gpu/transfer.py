"""Sending tensors from the main memory to a card without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`.

    The copy to a GPU is made from pinned memory, so that the program continues at once: a copy from other memory waits
    for all earlier work of the GPU. torch reuses the pinned memory only after the copy.
    """
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
