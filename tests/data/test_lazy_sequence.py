"""A lazy sequence makes what is asked for, and nothing else; it is indexed and sliced like a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer.data.lazy_sequence import LazySequence, items_at

PLACES = st.integers(-12, 12)


@given(st.integers(0, 10), st.none() | PLACES, st.none() | PLACES, st.none() | PLACES.filter(bool))
def test_slices_are_those_of_a_list(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    squares = LazySequence(count, lambda place: place * place)
    expected = [place * place for place in range(count)]
    assert list(squares) == expected
    assert list(squares[start:stop:step]) == expected[start:stop:step]
    assert list(squares[1:][start:stop:step]) == expected[1:][start:stop:step]


@given(st.integers(0, 10), PLACES)
def test_an_index_outside_is_refused_like_a_lists(count: int, place: int) -> None:
    items = LazySequence(count, str)
    if -count <= place < count:
        assert items[place] == [str(one) for one in range(count)][place]
    else:
        with pytest.raises(IndexError):
            items[place]


def test_only_what_is_asked_for_is_made() -> None:
    made: list[int] = []

    def make(place: int) -> int:
        made.append(place)
        return place

    items = LazySequence(5, make)
    chosen = items_at(items[::2], [2, 0, 2])
    assert len(chosen) == 3
    assert made == []
    assert list(chosen) == [4, 0, 4]
    assert made == [4, 0, 4]
