"""Which jobs the worker of a device runs. This depends only on the names of the devices, so it needs no torch."""

from __future__ import annotations

AUTO, CUDA = "auto", "cuda"


def numbered(device: str) -> str:
    """The name of a device, with the number of a card: `cuda` means the first one."""
    return f"{CUDA}:0" if device == CUDA else device


def serves(device: str, wanted: str) -> bool:
    """Whether the worker of `device` runs a job whose `compute.device` is `wanted`.

    A job with `cuda` may run on any card. A worker of `cuda` has the first card; a worker of `auto` lets the job
    choose.
    """
    if AUTO in (device, wanted):
        return True
    own = numbered(device)
    return own.startswith(f"{CUDA}:") if wanted == CUDA else own == wanted
