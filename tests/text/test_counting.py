"""One of a thing is not several."""

from __future__ import annotations

from veneer.text.counting import count_of


def test_one_thing_has_the_name_of_one() -> None:
    found = [count_of(count, "training row") for count in (0, 1, 2, 1_200)]
    assert found == ["0 training rows", "1 training row", "2 training rows", "1,200 training rows"]
