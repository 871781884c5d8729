"""Peak memory of this process, as the system counts it."""

from __future__ import annotations

import torch

from veneer.posix import peak_resident_bytes


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB (10⁶ bytes): allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_bytes() / 1e6
