"""Sums over lanes by a fixed binary tree, so that they have the same bits whichever process adds which part.

    level 2            (0 1 2 3)                lanes 0..3, of which rank 0 has 0 and 1, rank 1 has 2 and 3:
    level 1        (0 1)     (2 3)              each adds its own pair, and (0 1) + (2 3) is left to be added.
    level 0        0   1     2   3

A floating-point sum depends on its order. Here the order belongs to the lanes, whose number is a power of two and one
of the run's settings. The lanes of a rank are consecutive, so that it can add up whole subtrees of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


def lanes_of(rank: int, world: int, lanes: int) -> range:
    """The lanes of a rank. They are consecutive, and the numbers of lanes of two ranks differ by at most one. If there
    are more ranks than lanes, a rank may have none."""
    return range(rank * lanes // world, (rank + 1) * lanes // world)


@dataclass(frozen=True, slots=True)
class Node(Generic[Value]):
    """The sum of a subtree: of 2^`level` lanes, beginning with lane `index` · 2^`level`."""

    level: int
    index: int
    value: Value


class Tree(Generic[Value]):
    """Adds up nodes that come in the order of their lanes, as soon as two of them are the halves of one.

    Args:
        add: adds a left and a right half.
    """

    def __init__(self, add: Callable[[Value, Value], Value]):
        self._add = add
        self.nodes: list[Node[Value]] = []
        """The sums so far, in the order of their lanes: at most about twice the logarithm of their number."""

    def put(self, node: Node[Value]) -> None:
        """Add the next node."""
        while self.nodes and self.nodes[-1].level == node.level and self.nodes[-1].index + 1 == node.index:
            if node.index % 2 == 0:
                break  # neighbours, and not halves of one
            left = self.nodes.pop()
            node = Node(node.level + 1, node.index // 2, self._add(left.value, node.value))
        self.nodes.append(node)

    def lane(self, number: int, value: Value) -> None:
        """Add the next lane."""
        self.put(Node(0, number, value))


def subtrees(lanes: range) -> list[Node[None]]:
    """The largest subtrees that consecutive lanes consist of, in order."""
    tree: Tree[None] = Tree(lambda left, right: None)
    for lane in lanes:
        tree.lane(lane, None)
    return tree.nodes
