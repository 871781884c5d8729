"""Which jobs the worker of a device carries out: by the names of the devices alone, so that it needs no torch."""

from __future__ import annotations

AUTO, CUDA = "auto", "cuda"


def numbered(device: str) -> str:
    """A device, a card by its number: `cuda` is the first one."""
    return f"{CUDA}:0" if device == CUDA else device


def serves(device: str, wanted: str) -> bool:
    """Whether the worker of `device` carries out a job whose `compute.device` is `wanted`.

    A job of `cuda` is for any card. A worker of `cuda` has the first one; one of `auto` leaves the device to the job.
    """
    if AUTO in (device, wanted):
        return True
    own = numbered(device)
    return own.startswith(f"{CUDA}:") if wanted == CUDA else own == wanted
