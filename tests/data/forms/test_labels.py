"""Rows of an answer and a label, and what is wrong with others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from veneer.data.files.json_values import BadRow
from veneer.data.forms.labels import refuse_labelled, to_labelled
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


TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
PLAIN = {"prompt": "Q", "completion": "A"}


@pytest.mark.parametrize("columns", [{}, {Column.PROMPT: "q", Column.COMPLETION: "a", Column.LABEL: "good"}])
@pytest.mark.parametrize("label", [True, False])
def test_a_labelled_answer_is_not_imitated(label: bool, columns: dict[Column, str]) -> None:
    row = PLAIN | {"label": label}
    row = {columns.get(Column(key), key): value for key, value in row.items()}
    with pytest.raises(BadRow) as error:
        refuse_labelled(row, columns)
    name, kept = (
        ("good", "prompt: q, completion: a") if columns else ("label", "prompt: prompt, completion: completion")
    )
    assert f"{name!r} says whether the answer is desirable" in str(error.value)
    assert "such rows are for objective: kto; to learn all of their answers, remove this key or set " in str(
        error.value
    )
    assert str(error.value).endswith(f": {{{kept}}}")


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        (PLAIN | {"kto_tag": "true"}, "{prompt: prompt, completion: completion}"),
        ({"messages": TURNS, "tools": [{}], "label": False}, "{messages: messages, tools: tools}"),
        ({"instruction": "Q", "output": "A", "kto_tag": True}, "{instruction: instruction, output: output}"),
    ],
)
def test_any_form_of_a_labelled_answer_is_refused_and_what_keeps_it_is_named(row: dict[str, Any], mapping: str) -> None:
    with pytest.raises(BadRow, match=re.escape(mapping)):
        refuse_labelled(row)
    kept = {key: value for key, value in row.items() if key in mapping}
    columns = {Column(key): key for key in kept}
    refuse_labelled(row, columns)


@pytest.mark.parametrize("label", ["true", "spam", 0, 1, 0.7, None, [True]])
def test_a_label_that_may_be_a_class_is_passed_over(label: Any) -> None:
    row = PLAIN | {"label": label}
    refuse_labelled(row)


def test_a_row_without_an_answer_is_left_to_its_own_complaint() -> None:
    refuse_labelled({"prompt": "Q", "label": True})
    refuse_labelled({"text": "Q", "label": True})
