"""Compile the kernels of this folder, once for each instruction set that the compiler knows.

The package's build (hatch_build.py) runs it if there is a C compiler, and so does `python -m veneer.native.build`. It
uses only the standard library; it needs neither torch nor its headers. OpenMP is compiled in but not linked. At run
time its symbols come from the runtime that torch has loaded, so that both share one pool of threads; two pools would
fight for the cores.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = (
    "adapt.c",
    "attention.c",
    "attention_bf16.c",
    "decode.c",
    "elementwise.c",
    "frozen.c",
    "interface.c",
    "int8.c",
    "lane_rows.c",
    "likeliest.c",
    "losses.c",
    "next.c",
    "optimizer.c",
    "outer.c",
    "panels.c",
    "peak.c",
    "products.c",
    "prompts.c",
    "quant.c",
    "row_pairs.c",
    "rows.c",
    "step.c",
    "step_attention.c",
    "tiles.c",
    "words.c",
)
MOST_COMPILERS = 8
"""Compilers that run at once, on as many cores; each takes up to some hundred megabytes."""
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")

_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512")

VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512bf16": (*_AVX512, "-mavx512bf16"),
        "avx512": _AVX512,
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
    },
    "aarch64": {"neon": ("-march=armv8-a",)},
}
"""The instruction sets of each machine, best first, with the options that the compiler gets."""

MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}
"""Other names of the machines in `VARIANTS`."""


def machine() -> str:
    """Return the kind of this machine, as `VARIANTS` calls it."""
    return MACHINES.get(platform.machine(), platform.machine())


def library_path(variant: str, folder: Path = HERE) -> Path:
    """Return the path of the library of an instruction set."""
    return folder / f"kernels-{variant}.so"


def compiler() -> str | None:
    """Return the C compiler that is installed, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(folder: Path = HERE, *, cc: str | None = None, target: str | None = None) -> list[Path]:
    """Compile every variant for `target` (this machine by default) into `folder`.

    Returns:
        The libraries that were made; none if there is no compiler, or if it cannot compile them.
    """
    cc = compiler() if cc is None else shutil.which(cc)
    if cc is None or sys.platform == "win32":
        return []
    variants = VARIANTS.get(target or machine(), {})
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_COMPILERS)) as pool:
        compiling = {
            variant: [
                pool.submit(_compiled, cc, source, flags, Path(scratch, f"{variant}-{source}.o")) for source in SOURCES
            ]
            for variant, flags in variants.items()
        }
        made = []
        for variant, sources in compiling.items():
            objects = [source.result() for source in sources]
            linked = Path(scratch, f"{variant}.so")
            if None not in objects and _linked(cc, objects, linked):
                shutil.move(linked, library_path(variant, folder))
                made.append(library_path(variant, folder))
    return made


def _compiled(cc: str, source: str, flags: Sequence[str], out: Path) -> Path | None:
    """Compile a source into `out`; None if the compiler cannot."""
    return out if _ran(cc, *FLAGS, *flags, "-c", str(HERE / source), "-o", str(out)) else None


def _linked(cc: str, objects: Sequence[Path | None], out: Path) -> bool:
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    return _ran(cc, "-shared", *undefined, *map(str, objects), "-lm", "-o", str(out))


def _ran(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    for path in build():
        print(path)
