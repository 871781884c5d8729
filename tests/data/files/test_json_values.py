from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer.data.files.json_values import (
    MAX_DEPTH,
    BadRow,
    check_value,
    kind,
    parse_json,
    parse_json_at,
    parse_row,
    unusable_at,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
BAD = st.sampled_from(["\0", "\ud800", "\udc80", "\udfff"])


@given(VALUES, st.booleans())
def test_a_good_value_comes_back_as_it_was(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == parse_row(text) == value


@given(VALUES, BAD, st.sampled_from(["value", "key", "deep"]))
def test_a_character_that_no_text_may_hold_is_found_wherever_it_is(value: Any, bad: str, place: str) -> None:
    text = f"a{bad}b"
    row = {"value": {"x": value, "y": text}, "key": {text: value}, "deep": {"x": [value, [text]]}}[place]
    path = {"value": "y", "key": "a key", "deep": "x[1][0]"}[place]
    for refuse in (lambda: check_value(row), lambda: parse_json(json.dumps(row))):
        with pytest.raises(BadRow) as caught:
            refuse()
        assert f" of {path}" in str(caught.value)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 200_000):
        with pytest.raises(BadRow, match=f"nested more than {MAX_DEPTH} levels deep"):
            parse_json(nested(depth))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1', "invalid JSON: Expecting ',' delimiter at column 8"),
        ('{"a": "x\0y"}', "a NUL character at column 9; remove it"),
        ('{"a": 1\n', "invalid JSON: Expecting ',' delimiter at column 8"),
        ('{"a": "b\r\n', "invalid JSON: Invalid control character at column 9"),
        ('{"a": "b', "invalid JSON: Unterminated string starting at column 7"),
        ("", "invalid JSON: Expecting value at column 1"),
        ("1" * 5000, "invalid JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        parse_json(text)
    assert str(caught.value).startswith(reason)


@given(TEXT, BAD, TEXT)
def test_the_first_such_character_is_found(before: str, bad: str, after: str) -> None:
    assert unusable_at(before + bad + after + bad) == len(before)
    assert unusable_at(before + after) is None


def test_a_value_within_a_text_ends_where_it_ends() -> None:
    text = 'so {"a": ["}", 1]} and {"a": "\\u0000"} and {'
    assert parse_json_at(text, 3) == ({"a": ["}", 1]}, 18)
    for start, reason in ((23, "a NUL character"), (0, "invalid JSON"), (len(text) - 1, "invalid JSON")):
        with pytest.raises(BadRow, match=reason):
            parse_json_at(text, start)


def test_a_byte_that_is_no_utf8_is_counted_in_bytes() -> None:
    """The CSV reader marks such bytes as lone surrogates."""
    with pytest.raises(BadRow, match=r"at byte 3 of name \(0xff\); save the file as UTF-8"):
        check_value({"name": "éx" + b"\xff".decode("utf-8", "surrogateescape")})


def test_kinds_are_named_as_json_names_them() -> None:
    values = [{}, [], "", True, 1, None, 1.5]
    assert [kind(value) for value in values] == [
        *("an object", "a list", "a string", "a boolean", "a number", "null", "a float"),
    ]
