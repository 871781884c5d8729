"""Compile the kernels of this folder, once for each instruction set that the compiler knows.

The package's build (hatch_build.py) runs it if there is a C compiler, and so does `python -m veneer.native.build`. It
uses only the standard library; it needs neither torch nor its headers. OpenMP is compiled in but not linked. At run
time its symbols come from the runtime that torch has loaded, so that both share one pool of threads; two pools would
fight for the cores.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
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
    "losses.c",
    "optimizer.c",
    "outer.c",
    "panels.c",
    "peak.c",
    "products.c",
    "prompts.c",
    "quant.c",
    "rows.c",
    "step.c",
    "step_attention.c",
)
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
    made = []
    for variant, flags in VARIANTS.get(target or machine(), {}).items():
        with tempfile.TemporaryDirectory() as scratch:
            objects = [str(Path(scratch) / f"{Path(source).stem}.o") for source in SOURCES]
            steps = [
                [cc, *FLAGS, *flags, "-c", str(HERE / source), "-o", out]
                for source, out in zip(SOURCES, objects, strict=True)
            ]
            undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
            steps.append([cc, "-shared", *undefined, *objects, "-lm", "-o", str(Path(scratch) / "out.so")])
            if all(subprocess.run(step, capture_output=True, check=False).returncode == 0 for step in steps):
                shutil.move(Path(scratch) / "out.so", library_path(variant, folder))
                made.append(library_path(variant, folder))
    return made


if __name__ == "__main__":
    for path in build():
        print(path)
