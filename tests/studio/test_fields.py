from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from veneer.http_server.errors import ApiError
from veneer.studio.fields import is_whole, number_of, whole, whole_in_query

RULE = "n must be a whole number from 1 to 1,000"


@pytest.mark.parametrize("value", [None, True, 2.0, "2", [2], 0, 1_001, 10**400])
def test_what_is_no_whole_number_in_range_is_refused_by_its_rule(value: Any) -> None:
    with pytest.raises(ApiError) as refused:
        whole(value, "n", 1, 1_000)
    assert (refused.value.status, refused.value.message, refused.value.param) == (400, RULE, "n")


def test_the_ends_of_a_range_are_in_it_and_without_one_every_whole_number_is() -> None:
    assert [whole(value, "n", 1, 1_000) for value in (1, 1_000)] == [1, 1_000]
    assert [is_whole(value) for value in (-(10**400), 10**400, False, 1.0)] == [True, True, False, False]


def asking(query: str) -> Request:
    return Request({"type": "http", "query_string": query.encode(), "headers": []})


def test_an_address_gives_a_number_or_the_default_holds() -> None:
    assert whole_in_query(asking("n=20"), "n", 7, 1, 1_000) == 20
    assert whole_in_query(asking("m=20"), "n", 7, 1, 1_000) == 7
    for text in ("", "x", "-1", "1.5", "0", "9" * 5_000):
        with pytest.raises(ApiError, match=RULE):
            whole_in_query(asking(f"n={text}"), "n", 7, 1, 1_000)


def test_a_text_of_more_digits_than_a_number_of_use_has_is_none() -> None:
    assert number_of("9" * 18) == int("9" * 18)
    assert number_of("9" * 19) is None
    assert number_of("²") is None
