"""The cache's blocks: which of them are in use, which hold a beginning that others may share, and which are free.

A block holds the keys and values of `block_tokens` neighbouring tokens in all layers of a group; layers with one window
are a group. Memory is counted in bytes over all groups. A block whose tokens are all computed may be registered under
its content. An unused block stays until its memory is needed; the longest unused goes first.

This is plain Python: the owner of the memory asks `drained` which blocks are gone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BlockId = tuple[int, int]
"""A group's number, and a number within the group."""
DROPPED_BLOCK = -1
"""Marks a block in a sequence's table that its window has passed."""


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Layers that see equally far back."""

    block_bytes: int
    """Bytes of a block: keys and values of all layers of the group."""
    window: int | None
    """The number of keys that a token sees, including its own; None means all."""


def content_key(before: bytes, tokens: Sequence[int], answered: int = 0) -> bytes:
    """The key of a block, from that of the block before it and its tokens: equal keys mean equal texts so far.

    Args:
        before: the key of the block before it.
        tokens: the tokens of the block.
        answered: how many of them, the last ones, were computed as tokens of an answer, if that gives other bits.
    """
    content = array("q", tokens if answered == 0 else [*tokens, -answered])
    return hashlib.blake2b(content.tobytes(), key=before[:64], digest_size=32).digest()


class BlockPool:
    """All blocks of a cache.

    Args:
        groups: the groups of layers.
        budget: the bytes that all blocks may use together.
    """

    def __init__(self, groups: Sequence[BlockGroup], budget: int):
        self.groups, self.budget = tuple(groups), budget
        self.used_bytes = 0
        """The bytes of all existing blocks, in use or idle."""
        self.idle_bytes = 0
        """The bytes of unused blocks that may be shared."""
        self._users: dict[BlockId, int] = {}
        self._key_of: dict[BlockId, bytes] = {}
        self._by_key: dict[tuple[int, bytes], BlockId] = {}
        self._idle: OrderedDict[BlockId, None] = OrderedDict()
        self._free: list[list[int]] = [[] for _ in groups]
        self._made = [0 for _ in groups]
        self._dropped: list[BlockId] = []

    def room(self) -> int:
        """The bytes that can be allocated now, if idle blocks are freed."""
        return self.budget - self.used_bytes + self.idle_bytes

    def take(self, group: int) -> int | None:
        """The number of a new block, or None if the budget is in use."""
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
        """The number of the block that holds this, with one more user; None if no block does."""
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
        """Let others share a block by its content; if another block already holds this, that one stays."""
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

    def drained(self) -> list[BlockId]:
        """The blocks that were freed since the last call; their numbers may be in use again."""
        found, self._dropped = self._dropped, []
        return [block for block in found if block not in self._users and block not in self._idle]

    def _drop(self, block: BlockId) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._by_key[block[0], key]
        self.used_bytes -= self.groups[block[0]].block_bytes
        self._free[block[0]].append(block[1])
        self._dropped.append(block)
