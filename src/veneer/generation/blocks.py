"""The cache's blocks: which of them are in use, which hold a beginning that others may share, and which are free.

A block holds the keys and values of `block_tokens` neighbouring tokens in all layers of a group; layers with one window
are a group. Memory is counted in bytes over all groups. A block whose tokens are all computed may be registered under
what it holds. When nobody uses it any more it stays until its memory is needed, the longest unused first.

This is plain Python: whoever owns the memory asks `drained` which blocks are gone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

Block = tuple[int, int]
"""A group's number, and a number within the group."""
DROPPED = -1
"""Stands in a sequence's table for a block that its window has left behind."""


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Layers that see equally far back."""

    block_bytes: int
    """Bytes of a block: keys and values of all layers of the group."""
    window: int | None
    """Keys that a token sees, its own included; None is all."""


def content_key(before: bytes, tokens: Sequence[int], answered: int = 0) -> bytes:
    """The key of a block, from that of the block before it and its tokens: equal keys mean equal texts so far.

    Args:
        before: key of the block before it.
        tokens: those of the block.
        answered: how many of them, the last ones, were computed as tokens of an answer, where that gives other bits.
    """
    content = array("q", tokens if answered == 0 else [*tokens, -answered])
    return hashlib.blake2b(content.tobytes(), key=before[:64], digest_size=32).digest()


class BlockPool:
    """All blocks of a cache.

    Args:
        groups: the groups of layers.
        budget: bytes that all blocks may take together.
    """

    def __init__(self, groups: Sequence[BlockGroup], budget: int):
        self.groups, self.budget = tuple(groups), budget
        self.used_bytes = 0
        """Bytes of all blocks that are there, in use or idle."""
        self.idle_bytes = 0
        """Bytes of blocks that nobody uses and that may be shared."""
        self._users: dict[Block, int] = {}
        self._key_of: dict[Block, bytes] = {}
        self._by_key: dict[tuple[int, bytes], Block] = {}
        self._idle: OrderedDict[Block, None] = OrderedDict()
        self._free: list[list[int]] = [[] for _ in groups]
        self._made = [0 for _ in groups]
        self._dropped: list[Block] = []

    def room(self) -> int:
        """Bytes that can be taken now, idle blocks given up."""
        return self.budget - self.used_bytes + self.idle_bytes

    def take(self, group: int) -> int | None:
        """The number of a new block, or None where the budget is in use."""
        size = self.groups[group].block_bytes
        while self.used_bytes + size > self.budget:
            if not self._idle:
                return None
            block, _ = self._idle.popitem(last=False)
            self.idle_bytes -= self.groups[block[0]].block_bytes
            self._drop(block)
        if self._free[group]:
            number = self._free[group].pop()
        else:
            number = self._made[group]
            self._made[group] += 1
        self.used_bytes += size
        self._users[group, number] = 1
        return number

    def share(self, group: int, key: bytes) -> int | None:
        """The number of the block that holds this, with one more user; None where there is none."""
        block = self._by_key.get((group, key))
        if block is None:
            return None
        if block in self._idle:
            del self._idle[block]
            self.idle_bytes -= self.groups[group].block_bytes
        self._users[block] = self._users.get(block, 0) + 1
        return block[1]

    def holds(self, group: int, key: bytes) -> bool:
        """Whether some block holds this."""
        return (group, key) in self._by_key

    def register(self, group: int, number: int, key: bytes) -> None:
        """Let others share a block, by what it holds; where another block holds it already, that one stays."""
        block = (group, number)
        if block not in self._key_of and (group, key) not in self._by_key:
            self._key_of[block], self._by_key[group, key] = key, block

    def release(self, group: int, number: int) -> None:
        """Take one user from a block. A block without users stays idle if it may be shared; else its memory is free."""
        block = (group, number)
        self._users[block] -= 1
        if self._users[block]:
            return
        del self._users[block]
        if block in self._key_of:
            self._idle[block] = None
            self.idle_bytes += self.groups[group].block_bytes
        else:
            self._drop(block)

    def drained(self) -> list[Block]:
        """The blocks that were given up since the last call; numbers may have been taken anew since."""
        found, self._dropped = self._dropped, []
        return [block for block in found if block not in self._users and block not in self._idle]

    def _drop(self, block: Block) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._by_key[block[0], key]
        self.used_bytes -= self.groups[block[0]].block_bytes
        self._free[block[0]].append(block[1])
        self._dropped.append(block)
