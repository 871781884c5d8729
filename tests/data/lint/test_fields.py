from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.rows.lint_rows import chat, found_in, read_row, write
from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import Example, Trace
from veneer.data.forms.record import Record
from veneer.data.lint.fields import place, trained_spans
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint

TURNS = ("Sure?", "no", "Really?", "no")
TEXT = "<u>Sure?<a>no<u>Really?<a>no<e>"
FIRST, SECOND = (11, 13), (26, 31)


def placed(*spans: tuple[int, int]) -> tuple[dict[int, tuple[int, int]], list[tuple[int, int]]]:
    """The trained turns' spans, and where the contents are found."""
    roles = ("user", "assistant") * 2
    record = Record("f:1", tuple({"role": r, "content": t} for r, t in zip(roles, TURNS, strict=True)))
    example = Example(np.zeros(1, np.int32), np.zeros(1, np.bool_), "f:1")
    trace = Trace(example, TEXT, [(0, len(TEXT))], spans, spelled=False)
    return trained_spans(record, trace), [(one.start, one.end) for one in place({"messages": []}, record, trace)]


def test_a_turn_that_has_no_span_is_not_given_that_of_another() -> None:
    contents = [(3, 8), FIRST, (16, 23), (26, 28)]
    assert placed(FIRST, SECOND) == ({1: FIRST, 3: SECOND}, contents)
    assert placed(SECOND) == ({}, contents)


PAIR = {"prompt": "what", "completion": "that"}
TURNS_OF_SHAREGPT = [{"from": "human", "value": "what"}, {"from": "gpt", "value": "that"}]
FIELDS: list[tuple[dict[str, Any], list[str]]] = [
    ({**PAIR, "conversations": None}, ["prompt", "completion"]),
    ({**PAIR, "messages": None}, ["prompt", "completion"]),
    ({**PAIR, "instruction": "Answer in German"}, ["prompt", "completion"]),
    ({**PAIR, "instruction": None, "output": None}, ["prompt", "completion"]),
    ({**PAIR, "messages": chat("u:what", "a:that")["messages"]}, ["messages[0].content", "messages[1].content"]),
    (
        {**chat("u:what", "a:that"), "instruction": "in German", "output": "das", "conversations": None},
        ["messages[0].content", "messages[1].content"],
    ),
    (
        {"conversations": TURNS_OF_SHAREGPT, "system": "brief", "instruction": "in German", "messages": None},
        ["system", "conversations[0].value", "conversations[1].value"],
    ),
    (
        {**chat("u:what", "a:that"), "functions": [{"name": "what", "parameters": {}}], "tools": None},
        ["functions[0]", "messages[0].content", "messages[1].content"],
    ),
    (
        {"instruction": "what", "input": None, "output": "that", "messages": None, "prompt": None, "text": "unused"},
        ["instruction", "output"],
    ),
]


@pytest.mark.parametrize(("raw", "fields"), FIELDS)
def test_fields_are_those_of_the_format_that_trains(raw: dict[str, Any], fields: list[str]) -> None:
    """The format is the first one of which the row has a key that is not null; columns beside it are not read."""
    row = read_row("f:1", raw, LintSetting(ct.tokenizer("qwen3")))
    assert [one.source.path for one in row.fields] == fields
    assert all(one.found for one in row.fields)


def test_columns_that_are_not_read_make_no_finding(tmp_path: Path) -> None:
    rows = [raw | {"note": "a"} for raw, _ in FIELDS]
    report = lint(write(tmp_path / "f.jsonl", rows), LintSetting(ct.tokenizer("chatml")))
    assert not {"content-lost", "unusable-row"} & set(found_in(report))
