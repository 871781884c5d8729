"""The compiled kernels that can be tested here."""

from __future__ import annotations

import pytest

from veneer.native.build import library_path
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.processor import runnable_variants

COMPILED = [name for name in runnable_variants() if library_path(name).is_file()]
"""The variants that this processor runs and that were compiled, best first."""


def bfloat16_kernels(products: KernelProducts) -> Kernels:
    """The library that multiplies bfloat16 in pairs or in tiles; the test is skipped where the processor does not."""
    if "avx512bf16" not in COMPILED:
        pytest.skip("there are no products of bfloat16 here")
    path = library_path("avx512bf16")
    if products is KernelProducts.TILES and Kernels(path).bfloat16_products is not products:
        pytest.skip("the processor has no tiles (AMX)")
    return Kernels(path, products=products)
