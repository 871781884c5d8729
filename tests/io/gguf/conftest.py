"""A tokenizer for the models of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import write_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer") / "model")
