"""What processes have different amounts of: every one's own numbers, and the bytes of rank 0."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor

from veneer.processes.group import Alone
from veneer.processes.ragged import everybodys, from_first
from veneer.processes.ranks import Ranks


class InThreads(Alone):
    """A group whose ranks are threads of this process."""

    def __init__(self, rank: int, world: int, barrier: Barrier, board: dict[int, Tensor]):
        self.ranks = Ranks(rank=rank, world=world)
        self._barrier, self._board = barrier, board

    def gather(self, values: Tensor) -> Tensor:
        self._board[self.ranks.rank] = values.clone()
        self._barrier.wait()
        found = torch.stack([self._board[rank] for rank in range(self.ranks.world)])
        self._barrier.wait()
        return found

    def broadcast(self, tensor: Tensor) -> None:
        if self.ranks.first:
            self._board[0] = tensor.clone()
        self._barrier.wait()
        tensor.copy_(self._board[0])
        self._barrier.wait()


def groups(world: int) -> list[InThreads]:
    barrier, board = Barrier(world), dict[int, Tensor]()
    return [InThreads(rank, world, barrier, board) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_gets_the_numbers_of_all_also_where_one_has_none(world: int) -> None:
    own = [np.array([0.1, np.nan, 1e300]), np.zeros(0), np.array([-0.0])][:world]
    with ThreadPoolExecutor(world) as threads:
        found = list(threads.map(everybodys, groups(world), own))
    for every in found:
        assert [one.tobytes() for one in every] == [one.tobytes() for one in own]


def test_bytes_of_rank_0_reach_all() -> None:
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(from_first, groups(3), [b"some bytes", b"", b"others"])) == [b"some bytes"] * 3
    assert from_first(Alone(), b"own") == b"own"
