"""Settings that the runs of a sweep have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def values(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    """Settings of runs of 4 steps."""
    return {
        "model": str(tiny_model),
        "method": "lora",
        "data": {"file": str(tiny_data), "held_out": 0.2},
        "train": {"steps": 4, "examples_per_step": 4, "eval_every": 2},
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    }
