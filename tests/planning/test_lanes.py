"""What lanes and processes add to a plan."""

from __future__ import annotations

import pytest

from veneer.planning.lanes import Spread
from veneer.training.parallel.tree import Tree, lanes_of


def most_held(spread: Spread) -> int:
    """The most buffers that any process of a run holds at a time, by what it does (veneer.training.parallel.lanes)."""
    most = 0
    for rank in range(spread.processes):
        own = lanes_of(rank, spread.processes, spread.lanes)
        tree: Tree[None] = Tree(lambda left, right: None)
        held = 0
        for lane in own:
            held = max(held, len(tree.nodes) + 1)
            tree.lane(lane, None)
        most = max(most, held)
    return most


@pytest.mark.parametrize("lanes", [2, 4, 8, 16, 64])
def test_the_sums_of_a_tree_are_all_counted(lanes: int) -> None:
    for processes in range(1, lanes + 2):
        spread = Spread(lanes=lanes, processes=processes)
        assert most_held(spread) <= spread.gradient_sums
        if lanes % processes == 0:
            assert most_held(spread) == spread.gradient_sums


def test_a_run_alone_has_none_and_sends_nothing() -> None:
    assert Spread().gradient_sums == 0
    assert Spread().sent(10**9) == 0
    assert Spread(lanes=8, processes=1).sent(10**9) == 0
    assert Spread(lanes=8, processes=8).sent(168_000_000) == 294_000_000
    assert Spread(lanes=2, processes=4).at_once == 2


def test_weights_in_parts_need_no_sums_and_are_counted_by_the_part() -> None:
    spread = Spread(lanes=4, processes=4, sharded=True)
    assert spread.gradient_sums == 0
    assert spread.part(1001) == 251
    assert Spread(lanes=4, sharded=True).part(1001) == 1001  # one process holds all
    assert Spread(lanes=4, processes=4).part(1001) == 1001
    # Of the layers: gathered twice, gradients once. Of the rest: gathered once, gradients once.
    assert spread.gathered(800, 400, 2.0, recompute=False) == 2 * (3 * 800 + 2 * 400) * 3 // 4
    assert spread.gathered(800, 400, 1.0, recompute=True) == (4 * 800 + 2 * 400) * 3 // 4
