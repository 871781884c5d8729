"""Who is gone is found out by beats and last words."""

from __future__ import annotations

import time
from threading import Event

import pytest

from veneer.training.parallel.liveness import SILENCE, Heart, Peers, within
from veneer.training.parallel.ranks import Ranks


class Table:
    """A store in memory, which may go."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.gone = False

    def _reach(self) -> None:
        if self.gone:
            raise RuntimeError("connection reset by peer")

    def set(self, key: str, value: str) -> None:
        self._reach()
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        self._reach()
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        self._reach()
        return all(key in self.values for key in keys)


class World:
    """Time that passes when somebody waits, and ranks that beat meanwhile."""

    def __init__(self, world: int):
        self.table, self.now, self.beating = Table(), 0.0, set(range(world))
        self.peers = [
            Peers(self.table, Ranks(rank=rank, world=world, host=f"host{rank}"), self.clock, self.wait)
            for rank in range(world)
        ]
        for peer in self.peers:
            peer.introduce()
        self.wait(0.0)

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for rank in self.beating:
            self.table.values[f"beat/{rank}"] = str(self.now).encode()


def test_the_rank_without_a_beat_is_named() -> None:
    world = World(3)
    world.beating.remove(2)
    message = str(world.peers[0].lost(RuntimeError("Connection closed by peer\nmore")))
    assert message.startswith("rank 2 on host2 does not answer any more")
    assert world.now >= SILENCE
    # Whoever has noticed and left is not the one that is gone.
    world.beating.remove(0)
    assert "rank 2 on host2 does not" in str(world.peers[1].lost(RuntimeError("timeout")))


def test_last_words_are_told_at_once() -> None:
    world = World(3)
    world.peers[1].last_words("no CUDA device")
    assert str(world.peers[0].lost(RuntimeError("x"))) == "rank 1 on host1 has ended: no CUDA device"
    assert world.now == 0.0


def test_two_that_are_gone_are_named_and_none_is_made_up() -> None:
    world = World(4)
    world.beating -= {1, 3}
    assert "rank 1 on host1 and rank 3 on host3 do not answer" in str(world.peers[0].lost(RuntimeError("x")))
    world = World(2)
    assert "although all of them run (odd)" in str(world.peers[0].lost(RuntimeError("odd")))


def test_a_rank_that_is_cut_off_says_so() -> None:
    world = World(2)
    world.table.gone = True
    assert "rank 1 on host1 cannot reach the other ranks any more, nor the place" in str(
        world.peers[1].lost(RuntimeError("reset"))
    )


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
    heart = Heart(table, 1)
    end = time.monotonic() + 10
    while "beat/1" not in table.values and time.monotonic() < end:
        time.sleep(0.01)
    heart.stop()
    assert "beat/1" in table.values
    table.gone = True
    Heart(table, 1).stop()
