"""What this machine computes well: where a run goes and in which dtype, when the user leaves it open."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from veneer.config import Dtype
from veneer.errors import ConfigError

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names under which Linux lists native bfloat16 products (x86: AVX-512 BF16, AMX; Arm: BF16)."""


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the processor as Linux names them; empty where the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ConfigError(f"compute.device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            found = f"torch sees {count} CUDA devices" if count else "torch sees no CUDA device"
            raise ConfigError(f"compute.device {name!r}: {found} on this machine; use cpu, or install torch with CUDA")
    return torch.device(name)


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The compute dtype that `dtype` means on `device`."""
    if dtype is Dtype.FLOAT32:
        return torch.float32
    if dtype is Dtype.BFLOAT16:
        return torch.bfloat16
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else bool(cpu_flags() & _BF16_FLAGS)
    return torch.bfloat16 if native else torch.float32


def processor() -> str:
    """A short name of the processor type, part of what makes two runs comparable to the byte."""
    features = sorted(cpu_flags() & (_BF16_FLAGS | {"avx2", "avx512f", "avx512_vnni", "asimd"}))
    return f"{platform.machine()} {' '.join(features)}".strip()
