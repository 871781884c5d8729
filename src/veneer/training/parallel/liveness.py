"""Which rank is gone, when the others can no longer reach one.

A collective that fails does not say because of whom. So every rank counts up a number of its own, twice a second, in
the store where the ranks have met. Whoever loses its peers looks for a count that stands still, or for the last words
of a rank that failed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Protocol, TypeVar

from veneer.errors import RankLost
from veneer.training.parallel.ranks import Ranks

BEAT = 0.5
"""Seconds between two beats."""
SILENCE = 4.0
"""Seconds without a beat after which a rank counts as gone, where others have failed to reach it."""


Answer = TypeVar("Answer")


class Store(Protocol):
    """A table that all ranks see; torch's TCPStore is one."""

    def set(self, key: str, value: str) -> None:
        """Set a text."""
        ...

    def get(self, key: str) -> bytes:
        """The text of a key that is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        ...


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What a function that asks a store returns or raises. It is called in a thread of its own, which is left behind
    where the store does not answer in time: torch waits without end for one whose host the network has cut off.

    Raises:
        RuntimeError: there is no answer within so many seconds.
    """
    found: Future[Answer] = Future()

    def work() -> None:
        try:
            found.set_result(ask())
        except (RuntimeError, RankLost) as error:
            found.set_exception(error)

    Thread(target=work, name="veneer-store", daemon=True).start()
    try:
        return found.result(timeout=seconds)
    except TimeoutError:
        raise RuntimeError(f"no answer within {seconds:g} s") from None


class Heart:
    """Counts up this rank's number in the store until it is stopped.

    Args:
        store: a connection of its own, since a connection serves one caller at a time.
        rank: the number of this rank.
    """

    def __init__(self, store: Store, rank: int):
        self._store, self._rank, self._end = store, rank, Event()
        self._thread = Thread(target=self._run, name="veneer-heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        # The store has gone: the other ranks are told apart by whoever reaches it.
        with suppress(RuntimeError):
            while not self._end.is_set():
                count += 1
                self._store.set(f"beat/{self._rank}", str(count))
                self._end.wait(BEAT)

    def stop(self) -> None:
        """Stop, and wait until it has stopped."""
        self._end.set()
        self._thread.join(timeout=2 * BEAT)


@dataclass(slots=True)
class Peers:
    """The other ranks, as the store tells of them."""

    store: Store
    ranks: Ranks
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    _beats: dict[int, tuple[str, float]] = field(default_factory=dict)
    """The last count of each rank, and when it was seen first."""

    def introduce(self) -> None:
        """Leave the name of this rank."""
        self.store.set(f"name/{self.ranks.rank}", self.ranks.name)

    def last_words(self, message: str) -> None:
        """Say why this rank ends before the others."""
        with suppress(RuntimeError):
            self.store.set(f"failed/{self.ranks.rank}", message)

    def failed(self) -> tuple[int, str] | None:
        """The first rank that has said why it ends, and what it said."""
        for rank in self._others():
            said = self._text(f"failed/{rank}")
            if said is not None:
                return rank, said
        return None

    def silent(self, seconds: float) -> list[int]:
        """The ranks whose counts have stood still for so many seconds, as far as they have been watched."""
        now, found = self.clock(), []
        for rank in self._others():
            count = self._text(f"beat/{rank}") or ""
            if rank not in self._beats or self._beats[rank][0] != count:
                self._beats[rank] = (count, now)
            elif now - self._beats[rank][1] >= seconds and self._text(f"noticed/{rank}") is None:
                found.append(rank)
        return found

    def lost(self, error: BaseException) -> RankLost:
        """The error that names who is gone, after a collective has failed. It takes some seconds."""
        said = str(error).strip().splitlines()
        cause = said[0] if said else type(error).__name__
        try:
            gone = within(3 * SILENCE, self._gone)
        except RuntimeError:
            where = f"{self.ranks.address}:{self.ranks.port}"
            return RankLost(
                f"{self.ranks.name} cannot reach the other ranks any more, nor the place where they meet ({where}): "
                f"rank 0 or the launcher there has ended, or the network is down ({cause})"
            )
        none = f"{self.ranks.name} cannot reach the other ranks any more, although all of them run ({cause})"
        return RankLost(none) if gone is None else gone

    def _gone(self) -> RankLost | None:
        """The error that names a rank which has failed or falls silent while it is waited for."""
        self.store.set(f"noticed/{self.ranks.rank}", "1")
        end = self.clock() + 2 * SILENCE
        while self.clock() < end:
            words = self.failed()
            if words is not None:
                return self.failure(*words)
            silent = self.silent(SILENCE)
            if silent:
                return self.silence(silent)
            self.wait(BEAT / 2)
        return None

    def failure(self, rank: int, words: str) -> RankLost:
        """The error about a rank that has said why it ends."""
        return RankLost(f"{self.name(rank)} has ended: {words}")

    def silence(self, silent: list[int]) -> RankLost:
        """The error about ranks that say nothing any more."""
        names = " and ".join(self.name(rank) for rank in silent)
        return RankLost(
            f"{names} {'does' if len(silent) == 1 else 'do'} not answer any more: killed, stopped, or cut off by the "
            "network. The last checkpoint stays; torchrun's restart, or the same command with --resume, goes on from it"
        )

    def name(self, rank: int) -> str:
        """A rank as messages call it."""
        return self._text(f"name/{rank}") or f"rank {rank}"

    def _others(self) -> list[int]:
        return [rank for rank in range(self.ranks.world) if rank != self.ranks.rank]

    def _text(self, key: str) -> str | None:
        return self.store.get(key).decode() if self.store.check([key]) else None
