"""Which rank is gone, when the others can no longer reach one.

A collective that fails does not say because of whom. So every rank counts up a number of its own, twice a second, in
the store where the ranks have met, and looks at those of the others now and then. Whoever loses its peers knows by that
whose count stands still, and whether the store still answers; or it finds the last words of a rank that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Protocol, TypeVar

from veneer.errors import RankLost
from veneer.processes.ranks import Ranks

BEAT = 0.5
"""Seconds between two beats."""
SILENCE = 4.0
"""Seconds without a beat, or without an answer of the store, after which they count as gone where a collective has
failed."""
MARGIN = 5.0
"""Seconds of the time-out that are left for finding out who is gone, and for the last checkpoint; a third at most."""
GOES_ON = "The last checkpoint stays; torchrun's restart, or the same command with --resume, goes on from it"


Answer = TypeVar("Answer")


class Store(Protocol):
    """A table that all ranks see; torch's TCPStore is one."""

    def set(self, key: str, value: str) -> None:
        """Set a text."""
        ...

    def get(self, key: str) -> bytes:
        """The text of a key that is there."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The texts of keys that are all there."""
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


def collective_seconds(timeout: float) -> float:
    """How long a collective may take, so that its failure is told within the group's time-out. Both in seconds."""
    return timeout - min(MARGIN, timeout / 3)


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look into the store has shown."""

    at: float = 0.0
    """When it began."""
    counts: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    """The count of each other rank, and when it was seen first."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What messages call each other rank, as far as it has come."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Why a rank has ended by itself."""
    given_up: Mapping[int, str] = field(default_factory=dict)
    """Why a rank has ended that has lost others."""


@dataclass(slots=True)
class Peers:
    """The other ranks, as the store tells of them. One thread beats and looks (`Heart`); others read what it saw."""

    store: Store
    ranks: Ranks
    timeout: float
    """Seconds after which the group gives up who does not answer."""
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    urgent: Event = field(default_factory=Event)
    """Whether somebody waits for what is seen, so that it is looked often."""
    sight: Sight = field(default_factory=Sight)
    """The last look that was answered."""
    _asked: float | None = None
    """Since when the store owes an answer."""
    _broken: bool = False
    """Whether the connection to the store is broken."""

    @property
    def patience(self) -> float:
        """Seconds after which a rank, or the store, counts as gone where a collective has failed."""
        return max(2 * BEAT, min(SILENCE, self.timeout / 3))

    @property
    def between_looks(self) -> float:
        """Seconds between two looks while nobody waits: seldom, since each of W ranks looks at W - 1 others, and often
        enough that a count has stood still for `patience` when a collective fails for it."""
        return max(BEAT, self.timeout / 8)

    def introduce(self) -> None:
        """Leave the name of this rank."""
        self.store.set(f"name/{self.ranks.rank}", self.ranks.name)

    def last_words(self, message: str) -> None:
        """Say why this rank ends before the others."""
        self._say("failed", message)

    def _say(self, kind: str, message: str) -> None:
        def say() -> None:
            self.store.set(f"{kind}/{self.ranks.rank}", message)
            self.store.set("ended", "1")

        with suppress(RuntimeError):
            within(BEAT, say)

    def beat(self, count: int, *, look: bool) -> None:
        """Set this rank's count, and look at those of the others if it is time to.

        Raises:
            RuntimeError: the store has gone.
        """
        self._asked = self.clock()
        try:
            self.store.set(f"beat/{self.ranks.rank}", str(count))
            if look:
                self._look(self._asked)
        except RuntimeError:
            self._broken = True
            raise
        self._asked = None

    def _look(self, now: float) -> None:
        last, others = self.sight, [rank for rank in range(self.ranks.world) if rank != self.ranks.rank]
        ended = self.store.check(["ended"])
        failed, given_up = (self._texts(kind, others) if ended else {} for kind in ("failed", "given up"))
        found, counts = self._texts("beat", others), {}
        for rank in others:
            count, seen = found.get(rank, ""), last.counts.get(rank)
            counts[rank] = seen if seen is not None and seen[0] == count else (count, now)
        # Whoever beats, or has failed, has left its name before.
        names = dict(last.names) | self._texts("name", [rank for rank in others if rank not in last.names])
        self.sight = Sight(now, counts, names, failed, given_up)

    def _texts(self, kind: str, ranks: Sequence[int]) -> dict[int, str]:
        """The texts of one kind, of the ranks that have left one."""
        keys = [f"{kind}/{rank}" for rank in ranks]
        if keys and self.store.check(keys):
            return {rank: text.decode() for rank, text in zip(ranks, self.store.multi_get(keys), strict=True)}
        there = [(rank, key) for rank, key in zip(ranks, keys, strict=True) if self.store.check([key])]
        return {rank: self.store.get(key).decode() for rank, key in there}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A block in which it is looked often."""
        self.urgent.set()
        try:
            yield
        finally:
            self.urgent.clear()

    def require(self, *, soon: bool = False) -> None:
        """Refuse to go on waiting where a rank has failed, or has been silent for the time-out.

        Args:
            soon: whether silence of some seconds is enough, as after a collective that has failed.

        Raises:
            RankLost: naming the rank.
        """
        gone = self._gone(self.patience if soon else collective_seconds(self.timeout), 0.0)
        if gone is not None:
            raise self._told(gone)

    def lost(self, error: BaseException) -> RankLost:
        """The error that names who is gone, after a collective has failed. It takes some seconds at most."""
        begun = self.clock()
        with self.watched():
            while (gone := self._gone(self.patience, begun)) is None and self.clock() < begun + 2 * SILENCE:
                self.wait(BEAT / 4)
        said = str(error).strip().splitlines()
        cause = said[0] if said else type(error).__name__
        return self._told(
            gone or f"{self.ranks.name} cannot reach the other ranks any more, although all of them run ({cause})"
        )

    def _told(self, gone: str) -> RankLost:
        if not self.store_gone(self.patience):
            self._say("given up", gone)
        return RankLost(gone)

    def _gone(self, seconds: float, since: float) -> str | None:
        """A sentence about the rank that has failed, or has been silent for so many seconds, by a look that began after
        `since`; None where there is none."""
        sight = self.sight
        for rank, words in sight.failed.items():
            return f"{self.name(rank)} has ended: {words}"
        if self.store_gone(seconds):
            return self._cut_off()
        if sight.at < since:
            return None
        silent = [
            rank
            for rank, (_, seen) in sight.counts.items()
            if sight.at - seen >= seconds and rank not in sight.given_up
        ]
        if silent:
            return self._silence(silent)
        for rank, words in sight.given_up.items():
            return f"{self.name(rank)} has ended the run: {words}"
        return None

    def store_gone(self, seconds: float) -> bool:
        """Whether the connection to the store is broken, or has had no answer for so many seconds."""
        asked = self._asked
        return self._broken or (asked is not None and self.clock() - asked >= seconds)

    def _cut_off(self) -> str:
        place = self.ranks.meeting_place
        if self.ranks.agent:
            return (
                f"{self.ranks.name} cannot reach the other ranks any more, nor the place where they meet ({place}): "
                "the launcher there has ended, or the network is down"
            )
        return (
            f"{self.ranks.name} cannot reach {self.name(0)} any more, where the ranks meet ({place}): killed, stopped, "
            "or cut off by the network"
        )

    def _silence(self, silent: Sequence[int]) -> str:
        names = " and ".join(self.name(rank) for rank in silent)
        return (
            f"{names} {'does' if len(silent) == 1 else 'do'} not answer any more: killed, stopped, or cut off by the "
            f"network. {GOES_ON}"
        )

    def name(self, rank: int) -> str:
        """A rank as messages call it."""
        return self.sight.names.get(rank, f"rank {rank}")


class Heart:
    """Counts up this rank's number in the store until it is stopped, and looks at those of the others.

    Args:
        peers: the others, with a connection to the store that nothing but this waits for.
    """

    def __init__(self, peers: Peers):
        self._peers, self._end = peers, Event()
        self._thread = Thread(target=self._run, name="veneer-heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        peers, count, due = self._peers, 0, 0.0
        # The store has gone: the peers say so to whoever asks.
        with suppress(RuntimeError):
            while not self._end.is_set():
                count, now = count + 1, peers.clock()
                look = peers.urgent.is_set() or now >= due
                peers.beat(count, look=look)
                due = now + peers.between_looks if look else due
                # Whoever begins to wait is not kept waiting.
                if peers.urgent.is_set():
                    self._end.wait(BEAT / 2)
                else:
                    peers.urgent.wait(BEAT)

    def stop(self) -> None:
        """Stop, and wait until it has stopped, unless it waits for a store that has gone."""
        self._end.set()
        self._peers.urgent.set()
        if not self._peers.store_gone(BEAT):
            self._thread.join(timeout=2 * BEAT)
