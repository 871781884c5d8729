"""Fixtures for every folder: one tiny model, its data, and a command line to run on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tiny import CommandLine, rows, write_model, write_rows

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("veneer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("veneer")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Llama with a chat template; read-only by agreement."""
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 conversations; read-only by agreement."""
    return write_rows(tmp_path_factory.mktemp("tiny") / "rows.jsonl", rows(20))


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line in processes of its own."""
    line = CommandLine(tmp_path_factory.mktemp("runs"))
    yield line
    line.close()
