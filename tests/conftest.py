"""Fixtures for every folder: one tiny model, its data, and a command line to run on them."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from helpers.models.tiny import CommandLine, rows, run_config, write_model, write_rows
from helpers.processes.comparison_workers import ForkedWorkers
from helpers.processes.forking import ForkServer
from helpers.processes.ranks import Forker
from helpers.run_folders.checkpoints import Saved
from helpers.training.training_runs import LONG, SETTINGS
from veneer.planning import time
from veneer.runtime.signals import SIGNALS
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


def pytest_configure() -> None:
    """Let the tests' programs get signals that this process ignores, as under `nohup` or in the background of a script:
    what is ignored stays so in all that is started, and tests that end a program by a signal would wait for ever. A
    signal that is handled, by nothing being done, is the system's own again in a started program."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported, when there is none: each time all that there is was walked."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest. Of two processes the first one begins at the first test and the second one in the
    middle, and whoever has nothing left takes over half of what the other one has not begun: so one of them does this
    alone from the first minute on while the other one does the rest, and nobody waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    """Keep the collected tests out of garbage collections: some thousands of them make each, as where a step is made
    again for want of memory, take seconds."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter's end clear them."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Leave it to the system when files reach the disk: what tests kill is a process and never the machine, and a run
    of some steps waits for the disk longer than it computes. That files are synced is seen in `io/test_files.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def hasty_probe() -> Iterator[None]:
    """Measure the processor's products for a moment: every process does, for a seventh to half of a second, which is
    longer than a run of some steps computes. What is foreseen of a run is less exact then, and nothing else differs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROBE_SECONDS", "PROBE_AT_MOST"):
            patch.setattr(time, name, 0.005)
        yield


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
def forks() -> Iterator[ForkServer]:
    """The process that has imported everything."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Forker:
    """The command line in groups of processes, as torchrun starts them."""
    return Forker(tmp_path_factory.mktemp("ranks"), forks)


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> CommandLine:
    """The command line in processes of its own."""
    return CommandLine(tmp_path_factory.mktemp("runs"), forks)


@pytest.fixture(scope="session")
def comparison_workers(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> ForkedWorkers:
    """The processes that runs of comparisons are forked in."""
    return ForkedWorkers(tmp_path_factory.mktemp("workers"), forks)


@pytest.fixture
def forked_runs(comparison_workers: ForkedWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of comparisons are forked. The test of one that is stopped starts programs, as users do."""
    comparison_workers.stand_in(monkeypatch)


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
