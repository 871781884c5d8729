"""Rows that are asked: their names, and the answer in the place of one that is still to come."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.data.asked_rows import PLACEHOLDER_ANSWER, asked_row
from veneer.data.files.json_values import BadRow
from veneer.enums import Column

USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "columns", "asked"),
    [
        ({"prompt": "a", "completion": None}, {}, {"prompt": "a", "completion": "?"}),
        ({"q": "a", "completion": "x"}, {Column.PROMPT: "q"}, {"prompt": "a", "completion": "?"}),
        ({"turns": [USER]}, {Column.MESSAGES: "turns"}, {"messages": [USER, PLACEHOLDER_ANSWER]}),
        ({"messages": [USER, PLACEHOLDER_ANSWER]}, {}, {"messages": [USER, PLACEHOLDER_ANSWER]}),
        ({"text": "a"}, {}, {"text": "a"}),
    ],
)
def test_a_row_is_asked_under_the_names_of_veneer(row: Any, columns: dict[Column, str], asked: Any) -> None:
    assert asked_row(row, columns) == asked


def test_a_row_that_cannot_be_asked_says_why() -> None:
    with pytest.raises(BadRow, match="the row has no 'q', which data"):
        asked_row({"r": "a"}, {Column.PROMPT: "q"})
    with pytest.raises(BadRow, match="a row must be an object"):
        asked_row([], {})
