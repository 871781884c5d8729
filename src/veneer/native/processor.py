"""The instruction sets of this processor, and which compiled variants it runs."""

from __future__ import annotations

from pathlib import Path

from veneer.native.build import VARIANTS, machine

_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"}
NEEDS = {
    "avx512bf16": _AVX512 | {"avx512_bf16"},
    "avx512": _AVX512,
    "avx2": {"avx2", "fma", "f16c"},
    "neon": set[str](),
}
"""Processor flags, as Linux names them, without which a variant must not run."""


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


def runnable_variants() -> list[str]:
    """The variants that this processor runs, best first."""
    flags = cpu_flags()
    return [name for name in VARIANTS.get(machine(), {}) if NEEDS[name] <= flags]
