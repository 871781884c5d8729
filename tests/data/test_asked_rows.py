"""Rows that are asked: their names, and the answer in the place of one that is still to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veneer.data.asked_rows import ANSWER, asked_row, asked_rows
from veneer.data.files.json_values import BadRow
from veneer.enums import Column

USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "columns", "asked"),
    [
        ({"prompt": "a", "completion": None}, {}, {"prompt": "a", "completion": "?"}),
        ({"q": "a", "completion": "x"}, {Column.PROMPT: "q"}, {"prompt": "a", "completion": "?"}),
        ({"turns": [USER]}, {Column.MESSAGES: "turns"}, {"messages": [USER, ANSWER]}),
        ({"messages": [USER, ANSWER]}, {}, {"messages": [USER, ANSWER]}),
        ({"text": "a"}, {}, {"text": "a"}),
    ],
)
def test_a_row_is_asked_under_the_names_of_veneer(row: Any, columns: dict[Column, str], asked: Any) -> None:
    assert asked_row(row, columns) == asked


def test_rows_that_cannot_be_asked_keep_their_place_and_reason(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a"}\n{"r": "a"}\n[]\n{\n')
    found = list(asked_rows(tmp_path / "rows.jsonl", {Column.PROMPT: "q"}))
    assert found[0][1] == {"prompt": "a", "completion": "?"}
    reasons = [str(row) for _, row in found[1:] if isinstance(row, BadRow)]
    assert [where.rpartition(":")[2] for where, _ in found] == ["1", "2", "3", "4"]
    assert [reason[:20] for reason in reasons] == [
        "there is no 'q', whi",
        "a row must be an obj",
        "invalid JSON: Expect",
    ]
