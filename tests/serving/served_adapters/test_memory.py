"""The bookkeeping of adapters in memory: what goes, what stays, and what can never fit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from veneer.errors import AdapterError
from veneer.generation.runner import LoadedAdapter
from veneer.serving.served_adapters.memory import AdapterMemory, Version


def version(name: str, *, pinned: bool = False) -> Version:
    return Version(Path(name), 1, pinned=pinned, nbytes=0)


def loaded(nbytes: int) -> LoadedAdapter:
    return LoadedAdapter(key=b"", nbytes=nbytes)


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = AdapterMemory(30)
    first, second, third = (version(name) for name in "abc")
    for one in (first, second, third):
        assert memory.put(one, loaded(10))
    memory.touch(first)
    assert memory.put(version("d"), loaded(10))
    assert [one.adapter is not None for one in (first, second, third)] == [True, False, True]
    assert memory.nbytes == 30


def test_what_is_in_use_or_pinned_stays() -> None:
    memory = AdapterMemory(30)
    used, pinned, free = version("used"), version("pinned", pinned=True), version("free")
    used.users = 1
    for one in (used, pinned, free):
        assert memory.put(one, loaded(10))
    assert not memory.put(version("large"), loaded(20))
    assert used.adapter is not None
    assert pinned.adapter is not None
    assert memory.nbytes == 20
    used.users = 0
    assert memory.put(version("large"), loaded(20))
    assert (used.adapter, memory.nbytes) == (None, 30)


def test_what_never_fits_is_refused_with_both_numbers() -> None:
    memory = AdapterMemory(30)
    assert memory.put(version("pinned", pinned=True), loaded(10))
    for nbytes, message in (
        (31, r"needs 31 bytes, but all adapters together have 30, of which pinned ones take 10"),
        (21, "needs 21"),
    ):
        with pytest.raises(AdapterError, match=message):
            memory.put(version("large"), loaded(nbytes))
    assert memory.put(version("other"), loaded(20))


def test_a_pinned_version_that_was_replaced_may_go() -> None:
    memory = AdapterMemory(10)
    before, after = version("one", pinned=True), version("one", pinned=True)
    assert memory.put(before, loaded(10))
    assert not memory.put(after, loaded(10))
    before.current = False
    assert memory.put(after, loaded(10))
    assert before.adapter is None


def test_the_budget_holds_whatever_comes_and_goes() -> None:
    source = random.Random(1)
    memory = AdapterMemory(100)
    versions = [version(str(number), pinned=number < 2) for number in range(20)]
    sizes = {one: source.randint(1, 30) for one in versions}
    for _ in range(2000):
        one = source.choice(versions)
        if one.adapter is not None:
            memory.touch(one)
        else:
            memory.put(one, loaded(sizes[one]))
        one.users = source.choice([0, 0, 0, 1])
        held = [two for two in versions if two.adapter is not None]
        assert memory.nbytes == sum(sizes[two] for two in held) <= 100
        assert all(two.adapter is not None for two in versions if two.users and two in held)
