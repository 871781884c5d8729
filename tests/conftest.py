"""Fixtures for every folder: one tiny model, its data, and a command line to run on them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from checkpoints import Saved
from tiny import CommandLine, rows, run_config, write_model, write_rows
from training_runs import LONG, SETTINGS
from veneer.training.run import train
from veneer.training.session import RunResult

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("veneer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("veneer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-rounds",
        type=int,
        default=1,
        metavar="N",
        help="how often the repeated tests of tests/faults inject their fault, as a multiple of their least",
    )


def pytest_collection_finish() -> None:
    """Keep the collected tests out of garbage collections: some thousands of them make each, as where a step is made
    again for want of memory, take seconds."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter's end clear them."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """The multiple of their least by which repeated tests inject their fault."""
    return int(request.config.getoption("--fault-rounds"))


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> dict[str, RunResult]:
    """One uninterrupted run of each method; read-only by agreement."""
    root = tmp_path_factory.mktemp("finished")
    return {
        method: train(run_config(tiny_model, tiny_data, root / method, *SETTINGS[method], *LONG)) for method in SETTINGS
    }


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Saved:
    """Three checkpoints; read-only by agreement."""
    return Saved(tmp_path_factory.mktemp("pristine"), tiny_model)


@pytest.fixture
def saved(tmp_path: Path, pristine: Saved) -> Saved:
    """A fresh copy of the three checkpoints."""
    return pristine.copied(tmp_path)
