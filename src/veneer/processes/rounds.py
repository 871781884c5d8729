"""The round of processes that a launcher has started together: its messages are kept apart from those of other rounds.

torchrun keeps the store in which processes meet while it restarts them, with everything that earlier ones have left in
it. Its count of restarts does not distinguish rounds: each host counts for itself, and a host that is new, or that
stops its processes because those of another host have failed, counts none
(https://github.com/pytorch/pytorch/issues/135712). So rank 0 draws a name for the round, and every other process asks
for it under its own new name, which no earlier process knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, sleep
from uuid import uuid4

from veneer.errors import RankLost
from veneer.processes.liveness import Store
from veneer.processes.ranks import Ranks

POLL = 0.02
"""Seconds between two looks into the store."""
ROUND = "round"
"""The key of the round's name, for the launcher that keeps the store."""


@dataclass(frozen=True, slots=True)
class Round:
    """One start of a run's processes."""

    name: str
    """A name that no other round has."""
    restarts: int
    """How often the launcher has restarted the run. On rank 0 it is the highest count of all hosts, on another rank its
    own count."""


def agreed(store: Store, ranks: Ranks, seconds: float) -> Round:
    """Agree on a round with the processes that the launcher has started together with this one.

    Args:
        store: a table that all of them share, and that earlier processes may have used.
        ranks: the place of this process among them.
        seconds: how long to wait for the others.

    Raises:
        RankLost: one of them has not come.
    """
    return (_given_out if ranks.first else _asked_for)(store, ranks, seconds)


def _given_out(store: Store, ranks: Ranks, seconds: float) -> Round:
    """Rank 0's part: answer every question until every rank has confirmed that it knows the name. Questions of
    earlier processes are answered as well, but nobody reads these answers."""
    name, restarts, end = uuid4().hex, [ranks.restarts], monotonic() + seconds
    missing = list(range(1, ranks.world))
    store.set(ROUND, name)
    while True:
        for rank in list(missing):
            if store.check([f"asks/{rank}"]):
                store.set(f"answers/{store.get(f'asks/{rank}').decode()}", name)
            if store.check([f"knows/{name}/{rank}"]):
                restarts.append(int(store.get(f"knows/{name}/{rank}")))
                missing.remove(rank)
        if not missing:
            return Round(name, max(restarts))
        if monotonic() > end:
            names = " and ".join(f"rank {rank}" for rank in missing)
            raise RankLost(
                f"{names} {'has' if len(missing) == 1 else 'have'} not come to {ranks.meeting_place}, where the ranks "
                f"meet, within {seconds:g} s: not started, already ended, or cut off by the network"
            )
        sleep(POLL)


def _asked_for(store: Store, ranks: Ranks, seconds: float) -> Round:
    """The part of every other rank."""
    own, end = uuid4().hex, monotonic() + seconds
    store.set(f"asks/{ranks.rank}", own)
    while not store.check([f"answers/{own}"]):
        if monotonic() > end:
            raise RankLost(
                f"{ranks.name} has found no rank 0 at {ranks.meeting_place}, where the ranks meet, within {seconds:g} "
                "s: not started, already ended, or sent to another place by its launcher"
            )
        sleep(POLL)
    name = store.get(f"answers/{own}").decode()
    store.set(f"knows/{name}/{ranks.rank}", str(ranks.restarts))
    return Round(name, ranks.restarts)
