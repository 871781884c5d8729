from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from helpers.models.compiled_variants import COMPILED, bfloat16_kernels
from veneer.native.build import library_path
from veneer.native.functions import KernelProducts, Kernels

FLOATS_ALONE = [name for name in COMPILED if name != "avx512bf16"]
"""The libraries without products of bfloat16."""


@pytest.fixture(params=[*FLOATS_ALONE, KernelProducts.PAIRS, KernelProducts.TILES], ids=str)
def native(request: pytest.FixtureRequest) -> Kernels:
    # Each library, and the one that has products of bfloat16 with each of them.
    if isinstance(request.param, KernelProducts):
        return bfloat16_kernels(request.param)
    return Kernels(library_path(request.param))


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
