"""Finds out which rank is gone when the others can no longer reach one.

A collective that fails does not say which rank caused it. So every rank increases its own count, twice a second, in the
store where the ranks have met, and reads the counts of the others now and then. A rank that loses its peers sees whose
count has stopped, or that the store is gone; or it finds the last words of a rank that has ended.
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
"""Seconds without a beat, or without an answer of the store, after which a rank or the store counts as gone if a
collective has failed."""
MARGIN = 5.0
"""Seconds of the time-out that are reserved for finding out which rank is gone, and for the last checkpoint; at most a
third of it."""
GOES_ON = "The last checkpoint is kept; torchrun's restart, or the same command with --resume, continues from it"


Answer = TypeVar("Answer")


class Store(Protocol):
    """A table that all ranks see, such as torch's TCPStore."""

    def set(self, key: str, value: str) -> None:
        """Set a text."""
        ...

    def get(self, key: str) -> bytes:
        """The text of an existing key."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The texts of existing keys."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all keys exist."""
        ...


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Call a function that reads a store, and return or raise what it does. It runs in its own thread, which is
    abandoned if the store does not answer in time: torch waits forever for a store whose host is cut off from the
    network.

    Raises:
        RuntimeError: there is no answer within this time.
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
    """How long a collective may take, so that its failure is reported within the group's time-out. Both are in
    seconds."""
    return timeout - min(MARGIN, timeout / 3)


@dataclass(frozen=True, slots=True)
class Sight:
    """The result of one look into the store."""

    at: float = 0.0
    """When the look began."""
    counts: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    """The count of each other rank, and when it was first seen."""
    names: Mapping[int, str] = field(default_factory=dict)
    """The name of each other rank in messages, if it has come."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Why a rank has ended by itself."""
    given_up: Mapping[int, str] = field(default_factory=dict)
    """Why a rank has ended that had lost others."""


@dataclass(slots=True)
class Peers:
    """The other ranks, as seen in the store. One thread beats and looks (`Heart`); others read what it saw."""

    store: Store
    ranks: Ranks
    timeout: float
    """Seconds after which the group gives up a rank that does not answer."""
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    urgent: Event = field(default_factory=Event)
    """Whether somebody waits for the result, so that looks must be frequent."""
    sight: Sight = field(default_factory=Sight)
    """The last look that got an answer."""
    _asked: float | None = None
    """The time since which an answer of the store is due."""
    _broken: bool = False
    """Whether the connection to the store is broken."""

    @property
    def patience(self) -> float:
        """Seconds after which a rank, or the store, counts as gone if a collective has failed."""
        return max(2 * BEAT, min(SILENCE, self.timeout / 3))

    @property
    def between_looks(self) -> float:
        """Seconds between two looks while nobody waits. Looks are rare, since each of W ranks reads the counts of W - 1
        others. But they are frequent enough that a count has stopped for `patience` when a collective fails because of
        it."""
        return max(BEAT, self.timeout / 8)

    def introduce(self) -> None:
        """Publish the name of this rank."""
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
        """Set this rank's count, and read those of the others if it is time to.

        Raises:
            RuntimeError: the store is gone.
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
        # A rank that beats, or has failed, has published its name before.
        names = dict(last.names) | self._texts("name", [rank for rank in others if rank not in last.names])
        self.sight = Sight(now, counts, names, failed, given_up)

    def _texts(self, kind: str, ranks: Sequence[int]) -> dict[int, str]:
        """The texts of one kind, from the ranks that have published one."""
        keys = [f"{kind}/{rank}" for rank in ranks]
        if keys and self.store.check(keys):
            return {rank: text.decode() for rank, text in zip(ranks, self.store.multi_get(keys), strict=True)}
        there = [(rank, key) for rank, key in zip(ranks, keys, strict=True) if self.store.check([key])]
        return {rank: self.store.get(key).decode() for rank, key in there}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A block in which looks are frequent."""
        self.urgent.set()
        try:
            yield
        finally:
            self.urgent.clear()

    def require(self, *, soon: bool = False) -> None:
        """Raise an error instead of waiting longer if a rank has failed, or has been silent for the time-out.

        Args:
            soon: whether a silence of some seconds is enough, as after a failed collective.

        Raises:
            RankLost: a rank is gone; it is named.
        """
        gone = self._gone(self.patience if soon else collective_seconds(self.timeout), 0.0)
        if gone is not None:
            raise self._told(gone)

    def lost(self, error: BaseException) -> RankLost:
        """The error that names the lost rank, after a collective has failed. Finding it takes some seconds at most."""
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
        """A sentence about the rank that has failed, or has been silent for so many seconds, from a look that began
        after `since`; None if there is no such rank."""
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
        """The name of a rank in messages."""
        return self.sight.names.get(rank, f"rank {rank}")


class Heart:
    """Increases this rank's count in the store until it is stopped, and reads those of the others.

    Args:
        peers: the others, with a connection to the store that is used only here.
    """

    def __init__(self, peers: Peers):
        self._peers, self._end = peers, Event()
        self._thread = Thread(target=self._run, name="veneer-heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        peers, count, due = self._peers, 0, 0.0
        # The store is gone: the peers report it to every caller.
        with suppress(RuntimeError):
            while not self._end.is_set():
                count, now = count + 1, peers.clock()
                look = peers.urgent.is_set() or now >= due
                peers.beat(count, look=look)
                due = now + peers.between_looks if look else due
                # A caller that begins to wait gets a look at once.
                if peers.urgent.is_set():
                    self._end.wait(BEAT / 2)
                else:
                    peers.urgent.wait(BEAT)

    def stop(self) -> None:
        """Stop, and wait until it has stopped, unless it waits for a store that is gone."""
        self._end.set()
        self._peers.urgent.set()
        if not self._peers.store_gone(BEAT):
            self._thread.join(timeout=2 * BEAT)
