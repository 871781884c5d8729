"""Numbers among values of JSON."""

from __future__ import annotations

import math

import pytest

from veneer.text.json_numbers import is_finite, is_whole


@pytest.mark.parametrize("value", [True, False, None, "3", 3.0, [3]])
def test_nothing_but_a_whole_number_is_one(value: object) -> None:
    assert not is_whole(value)


def test_a_whole_number_is_one_within_the_range_that_is_asked_for() -> None:
    assert is_whole(10**400)
    assert is_whole(-1)
    assert [is_whole(number, 1, 3) for number in range(5)] == [False, True, True, True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400), True, "3", None])
def test_what_no_float_holds_is_no_finite_number(value: object) -> None:
    assert not is_finite(value)


@pytest.mark.parametrize("value", [0, -3, 2.5, 1.7e308, 10**300])
def test_other_numbers_are_finite(value: object) -> None:
    assert is_finite(value)
