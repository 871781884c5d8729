"""Peak memory of this process, as the system counts it."""

from __future__ import annotations

import torch

from veneer.runtime.posix import peak_resident_bytes, restart_peak_resident_bytes


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB (10⁶ bytes): resident in the process on a CPU, taken from the driver by torch on a GPU.

    On a GPU that is more than what tensors took, by the holes between them, and it is what other programs lack. CUDA's
    own context is not among it: the driver does not say what a single process takes for that.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return peak_resident_bytes() / 1e6


def restart_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` count from now on: a notebook's process may have used more before the run, which is none of
    the run's. Where the system cannot count anew (macOS, Windows), the peak stays that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    restart_peak_resident_bytes()
