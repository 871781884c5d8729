"""The order of a sum belongs to its lanes: whoever adds which part, it is the same sum."""

from __future__ import annotations

import math

import pytest

from veneer.training.parallel.tree import Node, Tree, lanes_of, subtrees


def plain(lanes: range) -> str:
    """The sum that the tree stands for, by halves."""
    if len(lanes) == 1:
        return str(lanes[0])
    half = len(lanes) // 2
    return f"({plain(lanes[:half])}+{plain(lanes[half:])})"


def added(left: str, right: str) -> str:
    return f"({left}+{right})"


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 32])
def test_every_number_of_ranks_makes_one_sum(lanes: int) -> None:
    for world in range(1, lanes + 3):
        whole: Tree[str] = Tree(added)
        for rank in range(world):
            own: Tree[str] = Tree(added)
            for lane in lanes_of(rank, world, lanes):
                own.lane(lane, str(lane))
            # What others expect of a rank without asking it.
            expected = subtrees(lanes_of(rank, world, lanes))
            assert [(node.level, node.index) for node in own.nodes] == [(n.level, n.index) for n in expected]
            assert len(own.nodes) <= 2 * math.log2(lanes) + 1
            for node in own.nodes:
                whole.put(node)
        assert [node.value for node in whole.nodes] == [plain(range(lanes))]


def test_ranks_share_the_lanes_equally_and_in_order() -> None:
    for lanes in (1, 2, 8, 64):
        for world in range(1, 70):
            shares = [lanes_of(rank, world, lanes) for rank in range(world)]
            assert [lane for share in shares for lane in share] == list(range(lanes))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # Where ranks divide the lanes, each has one subtree: one reduction of the gradients' size.
    assert [len(subtrees(lanes_of(rank, 4, 16))) for rank in range(4)] == [1] * 4


def test_neighbours_that_are_no_halves_of_one_stay_apart() -> None:
    tree: Tree[str] = Tree(added)
    tree.put(Node(0, 1, "1"))
    tree.put(Node(0, 2, "2"))
    assert [node.value for node in tree.nodes] == ["1", "2"]
