"""The files of a tiny model."""

from __future__ import annotations

import pytest

from helpers.models.tiny_models import saved, tiny_llama
from veneer.io.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return saved(tiny_llama(0, {"num_hidden_layers": 3}), tmp_path_factory.mktemp("plan"))
