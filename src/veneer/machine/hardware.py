"""The device, dtype and products that suit this machine, if the user does not choose them."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from veneer.enums import Dtype, Products
from veneer.errors import ConfigError
from veneer.native.library import compiled_choice, kernels
from veneer.native.processor import cpu_flags
from veneer.text.counting import count_of

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names under which Linux lists native bfloat16 products (x86: AVX-512 BF16, AMX; Arm: BF16)."""

BF16_CAPABILITY = (8, 0)
"""The first of NVIDIA's cards that multiply bfloat16 (Ampere)."""

FP16_CAPABILITY = (7, 0)
"""The first of NVIDIA's cards that multiply float16 in tensor cores (Volta; Turing is 7.5)."""


def resolve_device(name: str, option: str = "compute.device") -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Args:
        name: the device.
        option: the setting's name in messages.

    Raises:
        ConfigError: there is no such device, or torch's default device is not the CPU.
    """
    standing = torch.get_default_device()
    if standing.type != "cpu":
        raise ConfigError(
            f"torch's default device is {str(standing)!r}, so that tensors meant for the CPU would be made there; call "
            'torch.set_default_device("cpu"), and name the device by compute.device'
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ConfigError(f"{option} {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if name != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            found = f"torch sees {count_of(count, 'CUDA device')}" if count else "torch sees no CUDA device"
            last = f" to cuda:{count - 1}" if count > 1 else ""
            others = f"use cpu, or cuda:0{last}" if count else "use cpu, or install torch with CUDA"
            raise ConfigError(f"{option} {name!r}: {found} on this machine; {others}")
    return torch.device(name)


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The compute dtype that `dtype` means on `device`."""
    if dtype is Dtype.FLOAT32:
        return torch.float32
    if dtype is Dtype.BFLOAT16:
        return torch.bfloat16
    if dtype is Dtype.FLOAT16:
        return torch.float16
    if device.type == "cuda":
        # Older cards emulate bfloat16, which is slower than float32. torch's own function (`is_bf16_supported`) only
        # knows the current device.
        capability = torch.cuda.get_device_capability(device)
        native = torch.version.hip is not None or capability >= BF16_CAPABILITY
        if not native and capability >= FP16_CAPABILITY:
            return torch.float16
    else:
        native = bool(cpu_flags() & BF16_FLAGS)
    return torch.bfloat16 if native else torch.float32


@contextmanager
def computing_on(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Within the block torch computes on `device` as training needs it.

    - Gradients are computed, even if the caller has switched them off.
    - The device is torch's current one, for functions that use it.
    - Sums of products stay in float32 to their end. By default torch lets cuBLAS add parts of them in 16 bits.
    - The allocator grows its blocks in place, since micro-batches of many sizes would leave holes between fixed ones.
    - With `deterministic`, torch uses only operations that add in a fixed order, and refuses those that cannot.

    Args:
        device: the device that computes.
        deterministic: `compute.deterministic`.

    Raises:
        ConfigError: torch's default dtype is not float32, in which factors must be drawn.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch's default dtype is {torch.get_default_dtype()}, in which training would draw other numbers; call "
            "torch.set_default_dtype(torch.float32), and name the dtype by compute.dtype"
        )
    with torch.inference_mode(False), torch.enable_grad(), _on_card(device, deterministic):
        yield


@contextmanager
def _on_card(device: torch.device, deterministic: bool) -> Iterator[None]:
    """The part of `computing_on` that concerns a GPU; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    if sys.platform == "linux" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        # torch reads it at its first allocation on a GPU. A value that the user has set, under either name, is kept.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    products = torch.backends.cuda.matmul
    before = (products.allow_bf16_reduced_precision_reduction, products.allow_fp16_reduced_precision_reduction)
    products.allow_bf16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction = False
    try:
        with torch.cuda.device(device), _fixed_order(deterministic):
            yield
    finally:
        products.allow_bf16_reduced_precision_reduction, products.allow_fp16_reduced_precision_reduction = before


@contextmanager
def _fixed_order(wanted: bool) -> Iterator[None]:
    """Within the block torch's operations add in a fixed order, if `wanted`."""
    if not wanted:
        yield
        return
    # cuBLAS reads it at its first use: with one workspace of a fixed size its sums have a fixed order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    # No tensor is read before it is written, so that none needs to be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def check_products(products: Products, device: torch.device) -> None:
    """Refuse products that `device` cannot compute, or computes more slowly than exact products.

    Raises:
        ConfigError: the device lacks something for these products; the message names it.
    """
    if products is Products.EXACT:
        return
    native = kernels()
    if device.type != "cpu":
        missing = f"works only on the CPU, but the device is {device}"
    elif "avx512_vnni" not in cpu_flags():
        missing = "needs a processor with AVX-512 VNNI, but this one does not list the feature avx512_vnni"
    elif native is None or not native.has_int8:
        chosen = compiled_choice()
        unloaded = "" if native is not None or chosen.variant is None else ", which cannot be loaded"
        missing = f"needs the compiled AVX-512 kernels, but here they are {chosen.variant or chosen.reason}{unloaded}"
    else:
        return
    raise ConfigError(f"compute.products int8 {missing}. Use compute.products=exact")


def processor(device: torch.device) -> str:
    """A short name of the processor or GPU of `device`. Runs with equal names are comparable to the byte."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    features = sorted(cpu_flags() & (BF16_FLAGS | {"avx2", "avx512f", "avx512_vnni", "asimd"}))
    return f"{platform.machine()} {' '.join(features)}".strip()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, until the device has finished it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
