"""Who is gone is found out by beats and last words."""

from __future__ import annotations

import time
from threading import Event, Thread

import pytest

from helpers.processes.beating_ranks import Table, World
from veneer.errors import RankLost
from veneer.processes.liveness import BEAT, SILENCE, Heart, Peers, collective_seconds, within
from veneer.processes.ranks import Ranks


class Silent(Table):
    """A store that does not answer, until it is asked to."""

    def __init__(self, table: Table):
        super().__init__()
        self.values = table.values
        self.asked, self.answers = Event(), Event()

    def check(self, keys: list[str]) -> bool:
        self.asked.set()
        self.answers.wait(20)
        return super().check(keys)


def test_the_rank_without_a_beat_is_named() -> None:
    world = World(3)
    world.wait(7.0)
    world.beating.remove(2)
    assert world.lost(0, "Connection closed by peer\nmore").startswith("rank 2 on host2 does not answer any more")
    assert SILENCE <= world.now - 7.0 <= SILENCE + 1.0
    # Whoever has noticed and left is not the one that is gone.
    world.beating.remove(0)
    assert "rank 2 on host2 does not" in world.lost(1)


@pytest.mark.parametrize("timeout", [4.0, 10.0, 60.0, 600.0])
def test_a_rank_that_was_stopped_before_a_collective_is_named_as_soon_as_that_fails(timeout: float) -> None:
    world = World(3, timeout)
    world.wait(3.3)
    world.beating.remove(1)
    world.wait(collective_seconds(timeout))
    failed = world.now
    assert world.lost(0).startswith("rank 1 on host1 does not answer any more")
    assert world.now - failed < 0.3
    assert timeout * 0.6 <= collective_seconds(timeout) <= timeout - 1.0
    # One that is waked again learns why the others have ended.
    world.beating = {1}
    assert world.lost(1).startswith("rank 0 on host0 has ended the run: rank 1 on host1 does not answer")


@pytest.mark.parametrize("timeout", [4.0, 10.0, 600.0])
@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (True, "rank 1 on host1 cannot reach the other ranks any more, nor the place where they meet (host0:7)"),
        (False, "rank 1 on host1 cannot reach rank 0 on host0 any more, where the ranks meet (host0:7): killed"),
    ],
)
def test_a_rank_whose_store_has_not_answered_for_long_says_so_as_soon_as_a_collective_fails(
    agent: bool, message: str, timeout: float
) -> None:
    world = World(2, timeout, agent=agent)
    world.wait(timeout)  # each has seen the other's name
    silent = Silent(world.table)
    world.peers[1].store = silent
    asking = Thread(target=world.peers[1].beat, args=(7,), kwargs={"look": True})
    asking.start()
    assert silent.asked.wait(10)
    world.beating.remove(1)
    world.wait(collective_seconds(timeout) - world.peers[1].between_looks)
    failed = world.now
    assert world.lost(1).startswith(message)
    assert world.now - failed < 1.0
    silent.answers.set()
    asking.join()


def test_last_words_are_told_at_once() -> None:
    world = World(3)
    world.peers[1].last_words("no CUDA device")
    assert world.lost(0) == "rank 1 on host1 has ended: no CUDA device"
    assert world.now <= BEAT
    with pytest.raises(RankLost, match=r"^rank 1 on host1 has ended: no CUDA device$"):
        world.peers[0].require()


def test_two_that_are_gone_are_named_and_none_is_made_up() -> None:
    world = World(4)
    world.beating -= {1, 3}
    assert "rank 1 on host1 and rank 3 on host3 do not answer" in world.lost(0)
    world = World(2)
    world.peers[0].require()
    assert "although all of them run (odd)" in world.lost(0, "odd")


def test_a_rank_that_is_waited_for_has_the_time_out_to_answer() -> None:
    world = World(2, 60.0)
    world.beating.remove(1)
    with world.peers[0].watched():
        world.wait(54.0)
        world.peers[0].require()
        world.wait(1.0)
        with pytest.raises(RankLost, match=r"^rank 1 on host1 does not answer any more"):
            world.peers[0].require()


def test_whoever_is_to_end_soon_waits_some_seconds_for_a_silent_rank_and_on_for_one_that_beats() -> None:
    world = World(3)
    with world.peers[0].watched():
        world.wait(200.0)
        world.peers[0].require(soon=True)
        world.beating.remove(1)
        world.wait(SILENCE - 1.0)
        world.peers[0].require(soon=True)
        world.wait(2.0)
        world.peers[0].require()
        with pytest.raises(RankLost, match=r"^rank 1 on host1 does not answer any more"):
            world.peers[0].require(soon=True)


def test_a_rank_that_is_cut_off_says_so() -> None:
    world = World(2)
    world.table.gone = True
    assert "rank 1 on host1 cannot reach the other ranks any more, nor the place" in world.lost(1, "reset")


def test_a_store_that_does_not_answer_is_not_waited_for_without_end() -> None:
    never = Event()
    with pytest.raises(RuntimeError, match=r"^no answer within 0\.05 s$"):
        within(0.05, never.wait)
    never.set()
    assert within(5.0, lambda: 3) == 3
    table = Table()
    table.gone = True
    with pytest.raises(RuntimeError, match="reset by peer"):
        within(5.0, lambda: table.get("x"))


def test_a_heart_beats_until_it_is_stopped_and_survives_a_store_that_goes() -> None:
    table = Table()
    peers = Peers(table, Ranks(rank=1, world=2), 600.0)
    heart = Heart(peers)
    end = time.monotonic() + 60
    while peers.sight.at == 0.0 and time.monotonic() < end:
        time.sleep(0.01)
    heart.stop()
    assert "beat/1" in table.values
    assert set(peers.sight.counts) == {0}
    table.gone = True
    Heart(peers).stop()
