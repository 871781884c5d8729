from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from compiled_variants import COMPILED
from veneer.native.build import library_path
from veneer.native.functions import Kernels


@pytest.fixture(params=COMPILED or [pytest.param("none", marks=pytest.mark.skip(reason="no kernels were compiled"))])
def native(request: pytest.FixtureRequest) -> Kernels:
    # Pairs of bfloat16 are tested wherever there are any; the other libraries compute bfloat16 attention in floats.
    return Kernels(library_path(request.param), fast_pairs=True)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
