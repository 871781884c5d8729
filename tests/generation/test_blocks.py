"""Blocks are counted in bytes, never above the budget; shared ones stay until their memory is needed."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from veneer.generation.blocks import BlockGroup, BlockPool, content_key

GROUPS = (BlockGroup(10, None), BlockGroup(7, 4))
BUDGET = 60


def test_a_key_tells_texts_apart() -> None:
    first = content_key(b"", [1, 2])
    assert first == content_key(b"", [1, 2])
    others = [content_key(b"", [2, 1]), content_key(b"a", [1, 2]), content_key(first, [1, 2]), content_key(b"", [1])]
    assert len({first, *others}) == 5


def test_the_longest_unused_block_goes_first() -> None:
    pool = BlockPool((BlockGroup(10, None),), 30)
    numbers = [pool.take(0) for _ in range(3)]
    assert pool.take(0) is None
    for number in numbers:
        assert number is not None
        pool.register(0, number, bytes([number]))
        pool.release(0, number)
    assert pool.share(0, bytes([0])) == 0
    pool.release(0, 0)
    taken = pool.take(0)
    assert taken == 1
    assert not pool.holds(0, bytes([1]))
    assert pool.holds(0, bytes([0]))
    assert pool.drained() == []
    pool.release(0, 1)
    assert pool.drained() == [(0, 1)]


class PoolMachine(RuleBasedStateMachine):
    """The pool beside a list of who uses what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(GROUPS, BUDGET)
        self.used: list[tuple[int, int]] = []
        self.there: set[tuple[int, int]] = set()
        self.content: dict[tuple[int, int], bytes] = {}

    @rule(group=st.sampled_from([0, 1]))
    def take(self, group: int) -> None:
        room = self.pool.room()
        number = self.pool.take(group)
        assert (number is not None) == (room >= GROUPS[group].block_bytes)
        if number is not None:
            assert (group, number) not in self.used
            self.content.pop((group, number), None)
            self.used.append((group, number))

    @precondition(lambda self: self.used)
    @rule(data=st.data(), key=st.binary(min_size=1, max_size=1))
    def register(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(self.used))
        known = self.pool.holds(block[0], key) or block in self.content
        self.pool.register(*block, key)
        if not known:
            self.content[block] = key

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.used))
        self.used.remove(block)
        self.pool.release(*block)

    @rule(group=st.sampled_from([0, 1]), key=st.binary(min_size=1, max_size=1))
    def share(self, group: int, key: bytes) -> None:
        number = self.pool.share(group, key)
        if number is not None:
            assert self.content[group, number] == key
            self.used.append((group, number))

    @invariant()
    def bytes_are_counted(self) -> None:
        in_use = sum(GROUPS[group].block_bytes for group, _ in set(self.used))
        assert self.pool.used_bytes - self.pool.idle_bytes == in_use
        assert in_use <= self.pool.used_bytes <= BUDGET
        assert not set(self.pool.drained()) & set(self.used)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
