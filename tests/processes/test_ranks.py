"""Which process this is, by the variables that torchrun sets."""

from __future__ import annotations

import pytest

from veneer.errors import ConfigError
from veneer.processes.ranks import ONE_RANK, ranks_in, variables_of

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip


def test_a_process_without_a_launcher_is_alone() -> None:
    assert ranks_in({}) is ONE_RANK
    assert ranks_in({"RANK": "1"}) is ONE_RANK  # some shell's own variable
    assert ONE_RANK.first
    assert not ONE_RANK.many


def test_torchruns_variables_are_read() -> None:
    found = ranks_in(TORCHRUN)
    assert (found.rank, found.world, found.local_rank, found.local_world) == (3, 4, 1, 2)
    assert (found.address, found.port, found.agent, found.restarts) == ("node0", 29500, True, 2)
    assert found.many
    assert not found.first
    assert found.name == f"rank 3 on {found.host}"
    # A launcher that does not say how many there are on the host shows it by the highest number.
    assert ranks_in({name: value for name, value in TORCHRUN.items() if name != "LOCAL_WORLD_SIZE"}).local_world == 2
    # One process under torchrun is alone, and may have been started again.
    alone = ranks_in(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"})
    assert not alone.many
    assert alone.restarts == 2


def test_what_launchers_leave_out_or_cannot_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)one of 4 by WORLD_SIZE.*LOCAL_RANK.*MASTER_PORT"):
        ranks_in({"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "node0"})
    with pytest.raises(ConfigError, match="RANK is 4 and WORLD_SIZE 4; ranks count from 0 to 3"):
        ranks_in(TORCHRUN | {"RANK": "4"})
    with pytest.raises(ConfigError, match="LOCAL_RANK is 1 and LOCAL_WORLD_SIZE 0"):
        ranks_in(TORCHRUN | {"LOCAL_WORLD_SIZE": "0"})
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'four'"):
        ranks_in(TORCHRUN | {"WORLD_SIZE": "four"})
    for port in ("0", "65536"):
        with pytest.raises(ConfigError, match=f"MASTER_PORT is {port}; ports count from 1 to 65535"):
            ranks_in(TORCHRUN | {"MASTER_PORT": port})


def test_processes_that_are_launched_read_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    variables = variables_of(1, 3, 4711, 2)
    found = ranks_in(variables)
    assert (found.rank, found.world, found.port, found.address, found.agent) == (1, 3, 4711, "127.0.0.1", True)
    names = ("OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL")
    assert [variables[name] for name in names] == ["2", "ERROR"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    assert [variables_of(1, 3, 4711, 2)[name] for name in names] == ["5", "INFO"]
