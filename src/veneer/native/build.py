"""Compiles the kernels of this folder, once for each instruction set that the compiler knows.

The package's build (hatch_build.py) runs this if there is a C compiler, and so does `python -m veneer.native.build`. It
uses only the standard library; it needs neither torch nor its headers. OpenMP is compiled in but not linked. At run
time its symbols come from the runtime that torch has loaded, so that both share one pool of threads; two pools would
fight for the cores.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = (
    "adapt.c",
    "adapt_tiles.c",
    "amx.c",
    "attention.c",
    "attention_bf16.c",
    "column_scales.c",
    "decode.c",
    "elementwise.c",
    "norms.c",
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
    "product_tiles.c",
    "products.c",
    "prompts.c",
    "quant.c",
    "row_norms.c",
    "row_pairs.c",
    "rows.c",
    "step.c",
    "step_attention.c",
    "tiles.c",
    "words.c",
)
OnFailure = Callable[[str, str], None]
"""Called with a variant that could not be compiled, and with the compiler's output."""
MOST_SAID = 2000
"""The number of characters of a compiler's output that are shown."""
MOST_COMPILERS = 8
"""The number of compilers that run at once, on as many cores; each needs up to some hundred megabytes."""
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
    """The kind of this machine, as named in `VARIANTS`."""
    return MACHINES.get(platform.machine(), platform.machine())


def library_path(variant: str, folder: Path = HERE) -> Path:
    """The path of the library of an instruction set."""
    return folder / f"kernels-{variant}.so"


def compiler() -> str | None:
    """The C compiler that is installed, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(
    folder: Path = HERE,
    *,
    cc: str | None = None,
    target: str | None = None,
    on_failure: OnFailure = lambda variant, why: None,
) -> list[Path]:
    """Compile every variant for `target` (this machine by default) into `folder`.

    Args:
        folder: the folder of the libraries.
        cc: the compiler; by default one that is installed.
        target: the kind of machine, as named in `VARIANTS`.
        on_failure: receives each variant that the compiler could not make.

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
            # Written beside the old library and then put in its place, since a process may have that one open.
            linked = folder / f"{variant}.{os.getpid()}.so"
            try:
                _link(cc, [source.result() for source in sources], linked)
            except _Failed as error:
                on_failure(variant, str(error))
                continue
            made.append(linked.replace(library_path(variant, folder)))
    return made


class _Failed(Exception):
    """What a compiler that failed has said, or why it could not be started."""


def _compiled(cc: str, source: str, flags: Sequence[str], out: Path) -> Path:
    """Compile a source into `out`. Raises _Failed."""
    _run(cc, *FLAGS, *flags, "-c", str(HERE / source), "-o", str(out))
    return out


def _link(cc: str, objects: Sequence[Path], out: Path) -> None:
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    _run(cc, "-shared", *undefined, *map(str, objects), "-lm", "-o", str(out))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise _Failed(f"{shlex.join(command)}\ncould not be started: {error}") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
        raise _Failed(f"{shlex.join(command)}\nended with code {done.returncode}:\n{said[:MOST_SAID]}")


def main(folder: Path = HERE) -> int:
    """Compile everything, and print what was made. Returns the exit code: 1 if something could not be made."""
    failed = []

    def fail(variant: str, why: str) -> None:
        failed.append(variant)
        print(f"the kernels for {variant} could not be compiled:\n{why}", file=sys.stderr)

    for path in build(folder, on_failure=fail):
        print(path)
    if not failed and compiler() is None:
        print("no C compiler (cc, gcc or clang) was found; torch's operations are used instead", file=sys.stderr)
    return 1 if failed or compiler() is None else 0


if __name__ == "__main__":
    sys.exit(main())
