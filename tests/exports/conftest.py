"""Adapters that many files of this folder export; read-only by agreement."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.training.run import train


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """An adapter that was trained beside the base as it is."""
    output = tmp_path_factory.mktemp("exports") / "lora"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=40")).output


@pytest.fixture(scope="session")
def qlora(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """An adapter that was trained beside the base in 4 bits."""
    output = tmp_path_factory.mktemp("exports") / "qlora"
    return train(run_config(tiny_model, tiny_data, output, "method=qlora", "train.steps=40")).output
