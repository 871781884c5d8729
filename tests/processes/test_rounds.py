"""Processes that are started together find each other, whatever earlier ones have left where they meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from veneer.errors import RankLost
from veneer.processes.ranks import Ranks
from veneer.processes.rounds import Round, agreed


class Place:
    """A store that outlives the processes which meet in it, as torchrun's agent keeps one."""

    def __init__(self) -> None:
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def connection(self) -> PrefixStore:
        store = TCPStore("127.0.0.1", self.server.port, timeout=timedelta(seconds=10), wait_for_workers=False)
        return PrefixStore("veneer", store)

    def meet(self, *restarts: int) -> list[Round]:
        """As many ranks as counts of restarts are given, each with its own."""

        def rank(number: int) -> Round:
            ranks = Ranks(rank=number, world=len(restarts), restarts=restarts[number])
            return agreed(self.connection(), ranks, 20.0)

        with ThreadPoolExecutor(len(restarts)) as threads:
            return list(threads.map(rank, range(len(restarts))))


def test_each_round_has_a_name_of_its_own_though_hosts_count_restarts_differently() -> None:
    """torchrun counts by host: one that stops its processes for another's failure, or is new, counts none."""
    place = Place()
    met = [place.meet(*counts) for counts in ((0, 0), (1, 0), (0, 1, 0), (1, 0))]
    assert [len({each.name for each in ranks}) for ranks in met] == [1] * 4
    assert len({ranks[0].name for ranks in met}) == 4
    # Rank 0 learns of a restart from whoever knows.
    assert [ranks[0].restarts for ranks in met] == [0, 1, 1, 1]


def test_ranks_that_do_not_come_are_named() -> None:
    place = Place()
    place.meet(0, 0, 0)  # what these have asked is in the store, and none of them is there
    with pytest.raises(RankLost, match=r"^rank 1 and rank 2 have not come to node0:7"):
        agreed(place.connection(), Ranks(world=3, address="node0", port=7), 0.1)
    with pytest.raises(RankLost, match=r"^rank 2 on h has found no rank 0 at node0:7"):
        agreed(place.connection(), Ranks(rank=2, world=3, address="node0", port=7, host="h"), 0.1)
