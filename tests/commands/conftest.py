"""An adapter that the commands are called with."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.training.run import train


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("cli") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=30")).output
