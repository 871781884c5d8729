"""The files of INTERPRETED are for a process in which Triton interprets; `test_interpreter.py` starts it.

Triton decides by `TRITON_INTERPRET` when it is imported whether it compiles or interprets, for the whole process. Set
here, that would bind every other test; so it is set for subprocesses alone. To see one file's tests by themselves:
`TRITON_INTERPRET=1 pytest tests/gpu/test_norm.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

INTERPRETED = (
    "test_cross_entropy.py", "test_elementwise.py", "test_kernels.py", "test_norm.py", "test_packed.py",
    "test_quant.py",
)  # fmt: skip

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else list(INTERPRETED)


@pytest.fixture
def seed() -> int:
    """Fresh random numbers in every run; the seed is printed where a test fails."""
    drawn = random.SystemRandom().randrange(2**31)
    torch.manual_seed(drawn)
    print(f"torch.manual_seed({drawn})")
    return drawn


@pytest.fixture
def interpreted_files() -> list[Path]:
    """The files whose tests run only where Triton interprets."""
    return [Path(__file__).parent / name for name in INTERPRETED]
