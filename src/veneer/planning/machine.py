"""The machine that a run is planned for: this one, or a card known by its data sheet."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.planning.choose import device_bytes, free_bytes
from veneer.planning.memory import resident
from veneer.planning.setup import Setup
from veneer.planning.time import Rate, card, probe, published


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a plan needs to know about the machine that computes the run."""

    device: str
    """`cpu` or `cuda`."""
    dtype: torch.dtype
    """The dtype of activations and products."""
    memory: int | None
    """Bytes of a GPU's memory; None for the main memory of this machine."""
    free: int | None = None
    """Bytes of it that this process may still use; None if that is unknown, or for the main memory."""
    threads: int
    """CPU threads."""
    processes: int = 1
    """Processes of the run that share the main memory."""
    world: int = 1
    """The number of all processes of the run."""
    start: Callable[[], int] = field(default=resident, compare=False)
    """Returns the resident bytes of the run's process before it loads its model; it is called when the rows have been
    read."""
    rate: Callable[[Setup], Rate] = field(compare=False)
    """Measures, or looks up, the rate of a model's products."""


def this_machine(device: torch.device, compute: ComputeSection, processes: int = 1, world: int = 1) -> Machine:
    """A device of this machine, with the settings of a run that has `processes` processes here, and `world` in
    total."""
    return Machine(
        device=device.type,
        dtype=resolve_dtype(compute.dtype, device),
        memory=device_bytes(device),
        free=free_bytes(device),
        threads=compute.threads or torch.get_num_threads(),
        processes=processes,
        world=world,
        rate=partial(probe, device=device),
    )


def named_machine(name: str, compute: ComputeSection, option: str = "--device") -> Machine:
    """A machine by its name.

    Args:
        name: a device of this machine, as in `compute.device`, or a card of `veneer.planning.time.CARDS`.
        compute: the settings of the run.
        option: the name's setting in messages.

    Raises:
        ConfigError: there is no such device or card.
    """
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        return this_machine(resolve_device(name, option), compute)
    found = card(name, option)
    return Machine(
        device="cuda",
        dtype=found.dtype if compute.dtype is Dtype.AUTO else resolve_dtype(compute.dtype, torch.device("cuda")),
        memory=found.memory,
        threads=compute.threads or torch.get_num_threads(),
        rate=published(found),
    )
