"""Pairs that the tests of all objectives have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from preference_rows import pair_rows, pairs
from tiny import write_rows
from veneer.data.chat import Example


@pytest.fixture(scope="session")
def answers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Seven pairs: chosen and rejected in turn."""
    file = write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(7))
    return pair_rows(tiny_model, file).train
