"""How processes come to one start: lanes, devices, and what only a process that is alone can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config
from veneer.config import ComputeSection
from veneer.errors import ConfigError
from veneer.events import Event, Level, Note
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.training.parallel.start import refuse_alone, with_lanes, with_own_device


@pytest.mark.parametrize(("world", "lanes"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_lanes_that_are_left_open_are_the_next_power_of_two(world: int, lanes: int) -> None:
    config = run_config(Path("m"), Path("d"), Path("o"))
    assert with_lanes(config, Ranks(world=world), lambda event: None).train.lanes == lanes


def test_lanes_that_are_given_stay_and_idle_processes_are_told_of() -> None:
    said: list[Event] = []
    config = run_config(Path("m"), Path("d"), Path("o"), "train.lanes=2")
    assert with_lanes(config, Ranks(world=4), said.append).train.lanes == 2
    assert [one.level for one in said if isinstance(one, Note)] == [Level.WARNING, Level.NOTE]
    assert "2 of them have nothing to train" in str(said[0])
    with pytest.raises(ConfigError, match="must be a power of two"):
        run_config(Path("m"), Path("d"), Path("o"), "train.lanes=6")


@pytest.mark.parametrize("world", [1, 2])
def test_no_run_with_weights_in_parts_claims_the_same_bytes(world: int) -> None:
    said: list[Event] = []
    sharded = ("train.lanes=2", "method=full", "compute.sharding=full")
    with_lanes(run_config(Path("m"), Path("d"), Path("o"), *sharded), Ranks(world=world), said.append)
    assert "the same result up to rounding, but not the same bytes" in str(said[0])


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def device(name: str, ranks: Ranks) -> str:
        return with_own_device(ComputeSection(device=name), ranks).device

    second = Ranks(rank=5, world=8, local_rank=1, local_world=2, host="h")
    assert device("auto", second) == device("cuda", second) == "cuda:1"
    assert device("cpu", second) == "cpu"
    assert device("auto", ONE_RANK) == "auto"
    with pytest.raises(ConfigError, match="names one GPU and the run has 2 processes on h"):
        device("cuda:0", second)
    with pytest.raises(ConfigError, match="torch sees 2 CUDA devices"):
        device("cuda", Ranks(rank=2, world=3, local_rank=2, local_world=3))


def test_a_time_limit_is_for_a_process_that_is_alone() -> None:
    config = run_config(Path("m"), Path("d"), Path("o"), "train.time_limit=1m")
    refuse_alone(config, ONE_RANK)
    with pytest.raises(ConfigError, match=r"the run has 2; give train\.steps"):
        refuse_alone(config, Ranks(world=2))
