"""The processes of a run together, before there are collectives; test_runs.py makes whole runs with these."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from torch.distributed import TCPStore

from veneer.errors import ConfigError, RankLost
from veneer.training.parallel.group import Meeting
from veneer.training.parallel.ranks import Ranks


def test_a_rank_that_fails_before_there_are_collectives_ends_the_others_at_once_with_its_reason() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def rank(number: int) -> Ranks:
        return Ranks(rank=number, world=2, address="127.0.0.1", port=server.port, agent=True, host=f"host{number}")

    def fail() -> None:
        with pytest.raises(ConfigError), Meeting(rank(1), 600.0):
            raise ConfigError("no such GPU")

    other = Thread(target=fail)
    other.start()
    with (
        pytest.raises(RankLost, match=r"^rank 1 on host1 has ended: no such GPU$"),
        Meeting(rank(0), 600.0) as group,
    ):
        group.connect(torch.device("cpu"))
    other.join()
