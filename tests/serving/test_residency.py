"""What is in memory stays within its budget: what is used stays, the longest unused gives way first, pinned never."""

from __future__ import annotations

import random

from veneer.serving.residency import Residency


def test_the_longest_unused_gives_way_first() -> None:
    found: Residency[str] = Residency(30)
    for name in "abc":
        assert found.make_room(10) == []
        found.hold(name, 10)
        found.use(name)
    for name in "bca":
        found.release(name)
    assert found.make_room(15) == ["b", "c"]
    assert found.held == 10
    assert not found.holds("b")


def test_what_is_used_or_pinned_stays() -> None:
    found: Residency[str] = Residency(30)
    found.hold("used", 10)
    found.use("used")
    found.hold("pinned", 10, pinned=True)
    found.hold("idle", 10)
    assert found.make_room(20) is None
    assert found.holds("idle")
    assert found.make_room(10) == ["idle"]
    found.release("used")
    assert found.make_room(20) == ["used"]
    assert found.holds("pinned")


def test_what_is_larger_than_the_budget_fits_alone() -> None:
    found: Residency[str] = Residency(30)
    found.hold("a", 10)
    assert found.make_room(50) == ["a"]
    found.hold("large", 50)
    found.use("large")
    assert found.make_room(1) is None


def test_no_budget_is_exceeded_whatever_happens() -> None:
    source = random.Random(3)
    found: Residency[int] = Residency(100)
    sizes = {number: source.randint(1, 40) for number in range(20)}
    users = dict.fromkeys(sizes, 0)
    for _ in range(5000):
        number = source.randrange(20)
        if users[number] and source.random() < 0.5:
            users[number] -= 1
            assert found.release(number) == (users[number] == 0)
        elif found.holds(number):
            found.use(number)
            users[number] += 1
        else:
            given = found.make_room(sizes[number])
            if given is not None:
                assert not any(users[one] for one in given)
                found.hold(number, sizes[number])
        assert found.held <= 100
        assert all(found.holds(one) for one, count in users.items() if count)
