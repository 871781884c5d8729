"""Ranks whose hearts beat in a store of this process, in a time that passes as tests wish."""

from __future__ import annotations

from contextlib import suppress

from veneer.processes.liveness import BEAT, Peers
from veneer.processes.ranks import Ranks


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

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self._reach()
        return [self.values[key] for key in keys]

    def check(self, keys: list[str]) -> bool:
        self._reach()
        return all(key in self.values for key in keys)


class World:
    """Time that passes when somebody waits, and ranks whose hearts beat and look meanwhile, as often as they do."""

    def __init__(self, world: int, timeout: float = 600.0, *, agent: bool = True):
        self.table, self.now, self.beating = Table(), 0.0, set(range(world))
        self.peers = [
            Peers(
                self.table,
                Ranks(rank=rank, world=world, host=f"host{rank}", address="host0", port=7, agent=agent),
                timeout,
                self.clock,
                self.wait,
            )
            for rank in range(world)
        ]
        self._due = [0.0] * world
        for peer in self.peers:
            peer.introduce()
        self.wait(0.0)

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for rank in sorted(self.beating):
                peer = self.peers[rank]
                look = peer.urgent.is_set() or self.now >= self._due[rank]
                with suppress(RuntimeError):
                    peer.beat(int(1000 * self.now), look=look)
                if look:
                    self._due[rank] = self.now + peer.between_looks
            if self.now >= end:
                return
            self.now = min(end, self.now + BEAT)

    def lost(self, rank: int, said: str = "timeout") -> str:
        """What a rank says whose collective has failed."""
        return str(self.peers[rank].lost(RuntimeError(said)))
