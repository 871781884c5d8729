"""The choice of the compiled library for this processor.

`kernels()` returns its functions, or None. For that case the callers have the same mathematics in plain torch.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import lru_cache

from veneer.native.build import VARIANTS, library_path, machine
from veneer.native.functions import Kernels
from veneer.native.processor import runnable_variants

REVISIONS = {
    2: "float32 products of its own",
    3: "windows, soft caps and sinks in attention",
    4: "generated answers in another order, and prompts in bfloat16 products",
    5: "attention in float32 where the processor multiplies pairs of bfloat16 more slowly than floats",
    6: "what 4-bit codes of few rows come to is added up in another order, with AVX-512",
    7: "answers in bfloat16 by bfloat16 products, where the processor multiplies pairs of them faster than floats",
    8: "the seventh's products in AMX's tiles too, and the weights of prompts in another order",
    9: "adapters in bfloat16 are multiplied in tiles where the base is",
    10: "training in tiles (frozen products, factors' gradients, attention), and SwiGLU in float32 in another order",
    11: "norms of bfloat16 are added up in another order, where the processor has AVX-512 BF16",
    12: "answers under DoRA in a compiled step",
    13: "products with an adapter's factors in float32, and DoRA's norms, in kernels of their own",
    14: "gradients of DoRA's magnitudes are added up in another order",
}
"""What each revision of the kernels added, or computes to other bits than earlier ones."""
REVISION = max(REVISIONS)
"""The revision of the kernels. `run.lock` records it, but not in runs of the first revision."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which library is used, and why."""

    variant: str | None
    reason: str


_chosen: list[str] = []
"""The variant that `use_variant` chose, if any."""


def use_variant(variant: str) -> None:
    """Use the kernels of this instruction set instead of the best that the processor runs: for benchmarks.

    It must be called before anything is computed.

    Raises:
        ValueError: the processor does not run the variant, or it was not compiled.
    """
    if variant not in runnable_variants():
        raise ValueError(f"kernels {variant!r}: this processor runs {', '.join(runnable_variants()) or 'none'}")
    if not library_path(variant).is_file():
        raise ValueError(f"kernels {variant!r} were not compiled")
    _chosen[:] = [variant]
    compiled_choice.cache_clear()
    kernels.cache_clear()


@lru_cache(maxsize=1)
def compiled_choice() -> KernelChoice:
    """Choose the best variant that this processor runs and that was compiled."""
    variants = VARIANTS.get(machine(), {})
    if not variants:
        return KernelChoice(None, f"no kernels are written for {platform.machine()}")
    if _chosen:
        return KernelChoice(_chosen[0], "asked for")
    runnable = runnable_variants()
    if not runnable:
        return KernelChoice(None, f"the processor has none of: {', '.join(variants)}")
    present = [name for name in runnable if library_path(name).is_file()]
    if not present:
        return KernelChoice(None, "not compiled at install: install a C compiler, then install veneer again")
    return KernelChoice(present[0], f"the best that this processor runs (of {', '.join(variants)})")


@lru_cache(maxsize=1)
def kernels() -> Kernels | None:
    """The compiled kernels, or None if torch's own operations must be used."""
    chosen = compiled_choice().variant
    if chosen is None or sys.platform == "win32":
        return None
    try:
        return Kernels(library_path(chosen))
    except OSError:
        # The OpenMP runtime that torch brings is not the one that the kernels were compiled for, or they were compiled
        # from other sources.
        return None


def used_variant() -> str | None:
    """The variant whose kernels compute here; None if torch's own operations do, also where one is compiled but cannot
    be loaded."""
    return None if kernels() is None else compiled_choice().variant
