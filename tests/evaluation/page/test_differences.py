from __future__ import annotations

import random
import time
from itertools import pairwise

from veneer.evaluation.page import differences
from veneer.evaluation.page.differences import marked


def test_words_that_differ_are_marked_on_both_sides() -> None:
    left, right = marked("the red parcel is late", "the blue parcel is very late")
    assert "".join(piece for piece, _ in left) == "the red parcel is late"
    assert [piece.strip() for piece, same in left if not same] == ["red"]
    assert "blue" in "".join(piece for piece, same in right if not same)
    assert "very" in "".join(piece for piece, same in right if not same)


def test_the_pieces_make_up_the_texts_and_what_is_the_same_stands_in_both() -> None:
    source = random.Random(0)
    for _ in range(50):
        pieces = ["a ", "bb ", "{", "}", "é", "\n", "c1 "]
        texts = ["".join(source.choices(pieces, k=source.randint(0, 40))) for _ in range(2)]
        left, right = marked(*texts)
        assert ["".join(piece for piece, _ in side) for side in (left, right)] == texts
        same = ["".join(piece for piece, mark in side if mark) for side in (left, right)]
        assert same[0] == same[1]
        # Neighbours have different marks.
        assert all(a[1] is not b[1] for side in (left, right) for a, b in pairwise(side))


def test_words_are_in_common_before_the_signs_around_them() -> None:
    left, right = marked('{"name": "Ann", "age": 3, "city": "Rome"}', '{"name": "Bob", "city": "Rome", "x": 1}')
    assert "".join(piece for piece, same in left if same) == '{"name": "", "city": "Rome"}'
    assert [piece for piece, same in right if not same] == ["Bob", ', "x": 1']


def test_texts_that_repeat_themselves_are_compared_in_no_time() -> None:
    texts = ["a b " * 1500, "b a a " * 1000]
    begun = time.process_time()
    left, right = marked(*texts)
    assert time.process_time() - begun < 1.0  # it took more than 10 seconds
    assert "".join(piece for piece, same in left if same) == "".join(piece for piece, same in right if same)


def test_equal_texts_have_no_mark_and_long_ends_are_not_compared() -> None:
    assert marked("a b", "a b") == ([("a b", True)], [("a b", True)])
    assert marked("", "") == ([], [])
    long = "word " * differences.LONGEST
    left, _ = marked(long, long)
    assert left[0][1] is True
    assert left[-1][1] is False
