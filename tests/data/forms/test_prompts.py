"""Rows that ask: their forms, their columns, and tokens that end where the assistant answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config, write_rows
from veneer.data.encoded.encoding import encoder_of
from veneer.data.files.json_values import BadRow
from veneer.data.forms.prompts import encode_prompts, to_prompt
from veneer.data.rows import Rows, load_rows
from veneer.enums import Column, RowKind
from veneer.errors import DataError
from veneer.events import Event, Note
from veneer.io.tokenizer import from_directory

USER = {"role": "user", "content": "2 + 2?"}
SYSTEM = {"role": "system", "content": "Count."}
ANSWER = {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    ("row", "given", "messages", "columns"),
    [
        ({"prompt": "2 + 2?", "answer": 4}, "2 + 2?", (USER,), {"answer": 4}),
        ({"prompt": [SYSTEM, USER], "level": "a"}, (SYSTEM, USER), (SYSTEM, USER), {"level": "a"}),
        ({"messages": [SYSTEM, USER]}, (SYSTEM, USER), (SYSTEM, USER), {}),
        ({"messages": [USER, ANSWER]}, (USER,), (USER,), {"completion": "4"}),
        ({"prompt": "2 + 2?", "completion": "4", "none": None}, "2 + 2?", (USER,), {"completion": "4"}),
    ],
)
def test_every_form_is_a_prompt_with_the_other_columns(
    row: dict[str, Any], given: Any, messages: Any, columns: dict[str, Any]
) -> None:
    found = to_prompt(row, "f:1")
    assert found.given == given
    assert found.under == ("prompt" if "prompt" in row else "messages")
    assert found.record.messages == messages
    assert found.columns == columns


def test_functions_are_tools_by_their_older_name() -> None:
    function = {"name": "weather", "parameters": {}}
    found = to_prompt({"question": "Rain?", "functions": [function]}, "f:1", {Column.PROMPT: "question"})
    assert (found.record.tools, found.columns) == (({"type": "function", "function": function},), {})


def test_tools_may_be_the_text_of_a_list() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    assert to_prompt({"prompt": "2 + 2?", "tools": json.dumps([tool])}, "f:1").record.tools == (tool,)


def test_turns_may_be_a_text_of_json_as_in_csv() -> None:
    """The reader leaves the cell as it is where other columns are mapped."""
    found = to_prompt({"messages": json.dumps([USER]), "ref": "4"}, "f:1", {Column.COMPLETION: "ref"})
    assert (found.given, found.columns) == ((USER,), {"completion": "4"})


def test_other_names_are_mapped_and_the_rest_stays() -> None:
    found = to_prompt({"question": "2 + 2?", "answer": "4"}, "f:1", {Column.PROMPT: "question"})
    assert found.given == "2 + 2?"
    assert found.columns == {"answer": "4"}


def test_a_column_with_the_name_that_another_is_mapped_to_is_not_asked() -> None:
    """Whichever stands first in the row; it reaches rewards, where its name is free."""
    names = {Column.PROMPT: "question", Column.COMPLETION: "answer"}
    row = {"prompt": "task 7", "question": "2 + 2?", "answer": "4", "completion": "four"}
    for given in (row, dict(reversed(row.items()))):
        found = to_prompt(given, "f:1", names)
        assert found.given == "2 + 2?"
        assert found.columns == {"prompt": "task 7", "completion": "4"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "there is no prompt under prompt | messages; the row has 'text'"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": str([USER])}, "prompt is a list of turns that was written as a text; write the rows as JSON lines"),
        ({"prompt": 3}, "prompt must be a list of turns"),
        (["a"], "a row must be an object"),
        ({"prompt": "a", "tools": 3}, "tools must be a list of objects"),
        ({"prompt": "a", "tools": "b"}, "tools is not JSON"),
    ],
)
def test_what_asks_nothing_is_refused(row: Any, said: str) -> None:
    with pytest.raises(BadRow) as error:
        to_prompt(row, "f:1")
    assert said in str(error.value)


def loaded(model: Path, file: Path, *assignments: str) -> tuple[Rows, list[str]]:
    settings = ("objective=grpo", "rewards=[{metric: exact}]", *assignments)
    events: list[Event] = []
    data = run_config(model, file, file.parent / "unused", *settings).data
    rows = load_rows(data, from_directory(model), events.append, RowKind.PROMPTS)
    return rows, [event.message for event in events if isinstance(event, Note)]


def test_tokens_end_where_the_assistant_answers_and_none_trains(tiny_model: Path) -> None:
    tokenizer = from_directory(tiny_model)
    found = encode_prompts([to_prompt({"prompt": "2 + 2?"}, "f:1")], encoder_of(tokenizer), 100)
    text = tokenizer.decode(found.examples[0].tokens.tolist(), skip_special_tokens=False)
    assert text == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert not found.examples[0].loss_mask.any()


def test_a_system_column_that_is_not_asked_is_said(tiny_model: Path, tmp_path: Path) -> None:
    """Beside a prompt of `dpo` it is the system turn."""
    asked: list[dict[str, Any]] = [
        {"prompt": "q", "system": "Be brief."},
        {"prompt": "r", "system": ""},
        {"prompt": "s"},
    ]
    _, notes = loaded(tiny_model, write_rows(tmp_path / "a.jsonl", asked))
    said = "1 prompt with a column 'system', which reaches rewards but is not asked"
    assert sum(note.startswith(said) for note in notes) == 1
    turns = [{"messages": [SYSTEM, USER], "system": "Count."}, {"prompt": "2 + 2?"}]
    assert not any("is not asked" in note for note in loaded(tiny_model, write_rows(tmp_path / "b.jsonl", turns))[1])


def test_long_prompts_are_dropped_and_counted_and_columns_are_in_the_digest(tiny_model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{n} + 2?", "answer": n + 2} for n in range(8)]
    rows.append({"prompt": "a long one " * 60, "answer": 0})
    file = write_rows(tmp_path / "a.jsonl", rows)
    found, notes = loaded(tiny_model, file, "data.max_length=64", "data.held_out=0.25")
    assert (len(found.train), len(found.eval), len(found.prompts)) == (6, 2, 8)
    assert [one.where for one in (*found.train, *found.eval)] == [one.record.where for one in found.prompts]
    assert any("1 training prompt longer than data.max_length=64 and left out: " in note for note in notes)
    rows[0]["answer"] = 3
    other, _ = loaded(tiny_model, write_rows(tmp_path / "b.jsonl", rows), "data.max_length=64", "data.held_out=0.25")
    assert other.digest() != found.digest(), "other rewards are another run"


def test_prompts_that_are_all_too_long_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "many words " * number} for number in (20, 30, 25)]
    longest = len(encoder_of(from_directory(tiny_model)).prompt_tokens(to_prompt(rows[1], "f:2").record.messages))
    said = rf"no training row is left: of 3 rows, 3 are longer than 8 tokens \(the longest has {longest}\)"
    with pytest.raises(DataError, match=said):
        loaded(tiny_model, write_rows(tmp_path / "a.jsonl", rows), "data.max_length=8")


def test_evaluation_prompts_that_are_all_too_long_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    """A run that is to evaluate would otherwise do without, which it refuses for rows of every other kind."""
    rows = write_rows(tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    longer = write_rows(tmp_path / "b.jsonl", [{"prompt": "many words " * 20}])
    with pytest.raises(DataError, match="no evaluation row is left: of 1 row, 1 are longer than 60 tokens"):
        loaded(tiny_model, rows, "data.max_length=60", f"data.eval_file={longer}")
