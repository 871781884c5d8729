"""Several processes of a command: those that a launcher has started, and those that are asked for."""

from __future__ import annotations

import pytest

from veneer.commands.processes import in_processes, refuse_processes
from veneer.errors import ConfigError


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two, as torchrun says it."""
    variables = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_a_process_that_a_launcher_started_stays_the_one_that_it_is(second_of_two: None) -> None:
    for devices in (None, 2):
        ranks = in_processes(devices)
        assert (ranks.rank, ranks.world) == (1, 2)


def test_another_number_than_the_launchers_is_refused(second_of_two: None) -> None:
    for devices in (1, 3):
        with pytest.raises(ConfigError, match=f"--devices {devices} was given, but the launcher started 2 processes"):
            in_processes(devices)


def test_a_cluster_and_processes_are_refused_together(second_of_two: None) -> None:
    with pytest.raises(ConfigError, match="give only one of them"):
        in_processes(None, on="ray")


def test_a_process_without_others_is_alone() -> None:
    for devices in (None, 1):
        assert not in_processes(devices).many
    assert not in_processes(None, on="ray").many
    with pytest.raises(ConfigError, match="give only one of them"):
        in_processes(2, on="ray")


@pytest.mark.parametrize(("devices", "on"), [(2, None), (None, "ray")])
def test_one_question_is_for_one_process(devices: int | None, on: str | None) -> None:
    refuse_processes(None)
    refuse_processes(1)
    with pytest.raises(ConfigError, match="one process answers a single question"):
        refuse_processes(devices, on)


def test_one_question_is_not_for_each_process_of_a_launcher(second_of_two: None) -> None:
    with pytest.raises(ConfigError, match="one process answers a single question"):
        refuse_processes(None)
