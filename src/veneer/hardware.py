"""Device, dtype and products that suit this machine, where the user leaves them open."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable

import torch

from veneer.enums import Dtype, Products
from veneer.errors import ConfigError
from veneer.native.library import choice, kernels
from veneer.native.processor import cpu_flags

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names under which Linux lists native bfloat16 products (x86: AVX-512 BF16, AMX; Arm: BF16)."""


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ConfigError(f"compute.device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if name != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            found = f"torch sees {count} CUDA devices" if count else "torch sees no CUDA device"
            raise ConfigError(f"compute.device {name!r}: {found} on this machine; use cpu, or install torch with CUDA")
    return torch.device(name)


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The compute dtype that `dtype` means on `device`."""
    if dtype is Dtype.FLOAT32:
        return torch.float32
    if dtype is Dtype.BFLOAT16:
        return torch.bfloat16
    if device.type == "cuda":
        # Older cards emulate bfloat16, which is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(cpu_flags() & BF16_FLAGS)
    return torch.bfloat16 if native else torch.float32


def check_products(products: Products, device: torch.device) -> None:
    """Refuse products that `device` cannot compute, or only slower than exact products.

    Raises:
        ConfigError: the device lacks something for these products, which is named.
    """
    if products is Products.EXACT:
        return
    native = kernels()
    if device.type != "cpu":
        missing = f"is for the CPU, and this computes on {device}"
    elif "avx512_vnni" not in cpu_flags():
        missing = "needs a processor with AVX-512 VNNI; this one does not list avx512_vnni among its features"
    elif native is None or not native.has_int8:
        missing = f"needs the compiled AVX-512 kernels; here they are {choice().variant or choice().reason}"
    else:
        return
    raise ConfigError(f"compute.products int8 {missing}. Use compute.products=exact")


def processor(device: torch.device) -> str:
    """A short name of the processor or card of `device`. Runs with one name are comparable to the byte."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    features = sorted(cpu_flags() & (BF16_FLAGS | {"avx2", "avx512f", "avx512_vnni", "asimd"}))
    return f"{platform.machine()} {' '.join(features)}".strip()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, until the device has done all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
