"""The processes of a run together, before there are collectives; test_runs.py makes whole runs with these."""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread

import pytest
import torch
from torch.distributed import TCPStore

from helpers.processes.beating_ranks import World
from veneer.errors import ConfigError, RankLost
from veneer.processes.group import Meeting, Together, tell_killed
from veneer.processes.ranks import Ranks


def place_of(number: int, server: TCPStore) -> Ranks:
    return Ranks(rank=number, world=2, address="127.0.0.1", port=server.port, agent=True, host=f"host{number}")


def test_a_rank_that_fails_before_there_are_collectives_ends_the_others_at_once_with_its_reason() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def fail() -> None:
        with pytest.raises(ConfigError), Meeting(place_of(1, server), 600.0):
            raise ConfigError("no such GPU")

    other = Thread(target=fail)
    other.start()
    with (
        pytest.raises(RankLost, match=r"^rank 1 on host1 has ended: no such GPU$"),
        Meeting(place_of(0, server), 600.0) as group,
    ):
        group.connect(torch.device("cpu"))
    other.join()


def test_a_rank_that_a_signal_has_ended_is_waited_for_no_longer_once_its_launcher_has_said_so() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    tell_killed(server, place_of(1, server), "SIGKILL")  # nobody has met, and nobody is told
    met, over = Event(), Event()

    def live() -> None:
        with suppress(ConfigError), Meeting(place_of(1, server), 600.0):
            met.set()
            if not over.wait(60):
                raise ConfigError("nobody was told")

    other = Thread(target=live)
    other.start()
    with Meeting(place_of(0, server), 600.0) as group:
        assert met.wait(300)
        tell_killed(server, place_of(1, server), "SIGKILL")
        with pytest.raises(RankLost, match=r"^rank 1 on host1 has ended: killed by SIGKILL\. The last checkpoint"):
            group.awaited("what a dead rank leaves")
        over.set()
    other.join()


def test_whoever_leaves_a_text_where_the_launcher_has_gone_says_so() -> None:
    world = World(2)
    world.table.gone = True
    with pytest.raises(RankLost, match=r"^rank 0 on host0 cannot reach the other ranks any more, nor the place where"):
        Together(world.peers[0].ranks, 600.0, world.table, world.peers[0]).publish("choices", "rank: 8")


def test_a_signal_ends_the_wait_for_a_rank_that_is_gone_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(2)
    monkeypatch.setattr("veneer.processes.group.sleep", world.wait)
    monkeypatch.setattr("veneer.processes.group.stop_signalled", lambda: True)
    world.beating.remove(0)
    with pytest.raises(RankLost, match=r"^rank 0 on host0 does not answer any more"):
        Together(world.peers[1].ranks, 600.0, world.table, world.peers[1]).awaited("saved/1")
    assert world.now < 10.0
