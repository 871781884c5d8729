"""The instruction sets of this processor, and which compiled variants it runs."""

from __future__ import annotations

from pathlib import Path

from veneer.native.build import VARIANTS, machine

_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"}
NEEDED_FLAGS = {
    "avx512bf16": _AVX512 | {"avx512_bf16"},
    "avx512": _AVX512,
    "avx2": {"avx2", "fma", "f16c"},
    "neon": set[str](),
}
"""The processor flags, as Linux names them, that each variant needs."""
AMX_FLAG = "amx_bf16"
"""The flag of products of bfloat16 tiles (AMX), which are several times as fast as those of AVX-512."""


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets of the processor by Linux's names; empty if the system does not list them."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def runnable_variants() -> list[str]:
    """The variants that this processor runs, best first."""
    flags = cpu_flags()
    return [name for name in VARIANTS.get(machine(), {}) if NEEDED_FLAGS[name] <= flags]
