"""The advice in an out-of-memory error: settings that would have fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from veneer.errors import OutOfMemory
from veneer.machine.hardware import resolve_device
from veneer.machine.peak_memory import peak_memory_mb
from veneer.planning.memory import GPU_START
from veneer.training.memory_use.out_of_memory import what_fits
from veneer.training.run_inputs import RunInputs


@contextmanager
def fitting(inputs: RunInputs) -> Iterator[None]:
    """Add the settings that would fit to an `OutOfMemory` error of the block.

    Raises:
        OutOfMemory: the error of the block, with the settings.
    """
    try:
        yield
    except OutOfMemory as error:
        device = resolve_device(inputs.config.compute.device)
        had = peak_memory_mb(device) * 1e6
        # The plan includes CUDA's context, and the peak that torch reports does not.
        fits = settings_that_fit(inputs, had if device.type == "cpu" else had + GPU_START)
        raise OutOfMemory(f"{error} The process had {had / 1e6:,.0f} MB at its peak. {fits}") from None


def settings_that_fit(inputs: RunInputs, had: float) -> str:
    """The settings that fit into `had` bytes of memory."""
    return what_fits(inputs.prepared.forecast, inputs.config.compute, inputs.data.steps, had)
