"""A tiny model and a folder for an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny_models import ours, tiny_llama
from veneer.model.decoder import CausalLM


@pytest.fixture
def model(tmp_path: Path) -> CausalLM:
    return ours(tiny_llama(), tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    return path
