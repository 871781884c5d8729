"""What a step asks of a card, by torch's profiler and its own debugging of waits; a part of gpu.py.

`tests/gpu/test_card.py` counts the same without a card; here cuBLAS and FlashAttention say how many kernels they take.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
MOST_SHOWN = 12
"""Kernels that are listed, those that take longest."""


def waits_of(step: Callable[[], object]) -> list[str]:
    """What torch warns of when a step waits for the card: a line each."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [str(one.message).splitlines()[0] for one in found if "synchroniz" in str(one.message)]


def run_profile(make: Callable[[bool], Callable[[], object]], device: torch.device, warmup: int) -> None:
    """Print the waits, launches and longest kernels of a LoRA and of a QLoRA step.

    Args:
        make: gives a step, beside a quantised base or not.
        device: the card; on a CPU there is nothing to wait for.
        warmup: steps that are made before.
    """
    for quantized in (False, True):
        step = make(quantized)
        for _ in range(warmup):
            step()
        on_card = device.type == "cuda"
        waits = waits_of(step) if on_card else []
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            step()
            if on_card:
                torch.cuda.synchronize(device)
        events = found.key_averages()
        kernels = [event for event in events if event.device_type == DeviceType.CUDA]
        launched = sum(event.count for event in events if event.key in LAUNCHES)
        print(
            f"{'QLoRA' if quantized else 'LoRA'}: {sum(event.count for event in kernels):,} kernels and copies, "
            f"{launched:,} launches, {len(waits)} waits {sorted(set(waits))}"
        )
        for event in sorted(kernels, key=lambda one: -one.self_device_time_total)[:MOST_SHOWN]:
            print(f"  {event.self_device_time_total / 1000:9.2f} ms {event.count:6,} × {event.key[:90]}", flush=True)
        del step
        torch.cuda.empty_cache()
