"""Peak memory of this process, as the system counts it."""

from __future__ import annotations

import torch

from veneer.runtime.posix import peak_resident_bytes, restart_peak_resident_bytes


def peak_memory_mb(device: torch.device) -> float:
    """The peak memory in MB (10⁶ bytes): the resident memory of the process on a CPU, what torch took from the driver
    on a GPU.

    On a GPU that is more than the tensors took, because of the holes between them, and other programs cannot use it.
    CUDA's own context is not included: the driver does not report its size for a single process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return peak_resident_bytes() / 1e6


def restart_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` count from now on: a notebook's process may have used more before the run. If the system
    cannot restart the count (macOS, Windows), the peak remains that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    restart_peak_resident_bytes()
