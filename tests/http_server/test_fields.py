"""Fields of a request: each is honoured, refused with its path, or ignored and named."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.http_server.errors import ApiError
from veneer.http_server.fields import IGNORED_HEADER, MOST_FIELDS, MOST_NAMED_FIELDS, Fields, ignored_header, shown


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (lambda fields: fields.text("x"), (1, [], {}, True)),
        (lambda fields: fields.flag("x"), (1, "true", [])),
        (lambda fields: fields.integer("x", 1, 5), (0, 6, 1.0, "2", True, 10**5000)),
        (lambda fields: fields.number("x", 0.0, 2.0, 1.0), (-0.1, 2.1, float("nan"), float("inf"), "1", False)),
        (lambda fields: fields.section("x"), ([], "a", 1)),
        (lambda fields: fields.items("x"), ({}, "a", 1)),
        (lambda fields: fields.neutral("x", 1, False), (2, True, 1.0, "1", [])),
    ],
)
def test_what_a_field_cannot_be_is_400_with_its_name(read: Any, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(ApiError) as refused:
            read(Fields({"x": value}, "outer"))
        assert refused.value.status == 400
        assert refused.value.param == "outer.x"
        assert len(refused.value.message) < 200


def test_null_counts_as_absent() -> None:
    fields = Fields({"x": None})
    assert (fields.text("x"), fields.flag("x", True), fields.integer("x", 1, 2)) == (None, True, None)
    assert (fields.number("x", 0, 1, 0.5), fields.section("x"), fields.items("x")) == (0.5, None, None)
    fields.neutral("x")


def test_what_nobody_read_is_ignored_and_named_by_plain_words_alone() -> None:
    fields = Fields({"model": "m", "user": "u", "store": None, "bad name\n": 1})
    fields.text("model")
    assert fields.ignored() == ("user", "bad name\n")
    assert ignored_header(fields.ignored()) == {IGNORED_HEADER: "user, and 1 more"}
    assert ignored_header([]) == {}
    many = ignored_header(f"field{number}" for number in range(100))[IGNORED_HEADER]
    assert many.endswith(f"and {100 - MOST_NAMED_FIELDS} more")


def test_an_object_of_more_fields_than_there_are_is_400() -> None:
    many = {f"field{number}": 1 for number in range(MOST_FIELDS + 1)}
    with pytest.raises(ApiError, match="1,001 fields"):
        Fields(many)
    with pytest.raises(ApiError, match="options: 1,001 fields"):
        Fields({"options": many}).section("options")


def test_what_nobody_read_in_a_section_is_named_by_its_path() -> None:
    fields = Fields({"options": {"a": 1, "b": 2, "inner": {"c": 3, "d": None}}, "e": 4})
    options = fields.section("options")
    assert options is not None
    inner = options.section("inner")
    assert inner is not None
    assert (options.integer("a", 0, 9), fields.section("options")) == (1, options)
    assert fields.ignored() == ("e", "options.b", "options.inner.c")


def test_numbers_are_shown_short() -> None:
    assert shown(5) == "5"
    assert shown(10**40) == "10000000000000000000…"
    assert shown(10**5000) == "a number of thousands of digits"
