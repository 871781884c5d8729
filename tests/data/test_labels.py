"""Rows of an answer and a label, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.data.json_values import BadRow
from veneer.data.labels import to_labelled
from veneer.enums import Column


@pytest.mark.parametrize(
    ("label", "desirable"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        ("True", True),
        ("false", False),
        ("1", True),
        (" 0", False),
        ("1.0", True),
        (0.0, False),
    ],
)
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_a_row_says_an_answer_and_whether_it_is_desirable(name: str, label: Any, desirable: bool) -> None:
    found = to_labelled({"prompt": "Q", "completion": "A", name: label}, "f:1")
    assert (found.record.completion, found.desirable, found.record.where) == ("A", desirable, "f:1")


def test_conversations_and_other_names_are_read_too() -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert to_labelled({"messages": turns, "label": True}, "f:1").record.messages == tuple(turns)
    columns = {Column.PROMPT: "question", Column.COMPLETION: "reply", Column.LABEL: "good"}
    found = to_labelled({"question": "Q", "reply": "A", "good": False}, "f:1", None, columns)
    assert (found.record.prompt, found.desirable) == ("Q", False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "Q", "completion": "A"},
            "there must be one label, .* under label or kto_tag; there are 0",
        ),
        ({"prompt": "Q", "completion": "A", "label": True, "kto_tag": True}, "there are 2"),
        ({"prompt": "Q", "completion": "A", "label": "yes"}, "label is 'yes'; an answer is desirable"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "write two rows"),
        ({"prompt": "Q", "label": True}, "no completion"),
        (3, "must be an object"),
    ],
)
def test_what_is_wrong_is_said(row: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        to_labelled(row, "f:1")
