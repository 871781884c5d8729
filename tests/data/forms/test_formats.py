"""Rows to records, whatever their format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.rows.row_files import ANSWER, CALL, USER, problem, read_row
from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import MAPPING_SETTING, Remarks, to_record
from veneer.enums import Column
from veneer.errors import DataError


def test_messages_are_read_as_they_are(tmp_path: Path) -> None:
    tool = {"role": "tool", "content": "found", "tool_call_id": "1", "name": "f"}
    record = read_row(tmp_path, {"messages": [USER, CALL, tool, ANSWER], "tools": [{"name": "f"}], "id": 7})
    assert record.messages == (USER, CALL, tool, ANSWER)
    assert record.tools == ({"name": "f"},)
    assert record.where == f"{tmp_path / 'f.jsonl'}:1"
    assert (record.text, record.prompt, record.untrained) == (None, None, ())


def test_null_keys_count_as_absent(tmp_path: Path) -> None:
    call = {**CALL, "content": None, "name": None}
    record = read_row(tmp_path, {"messages": [USER, call], "text": None, "tools": None})
    assert record.messages == (USER, CALL)


def test_consecutive_roles_and_a_trailing_question_are_allowed(tmp_path: Path) -> None:
    assert len(read_row(tmp_path, {"messages": [ANSWER, USER, USER, ANSWER, ANSWER, USER]}).messages) == 6


def test_sharegpt_speakers_become_roles(tmp_path: Path) -> None:
    speakers = [
        ("system", "system"), ("human", "user"), ("gpt", "assistant"), ("user", "user"), ("chatgpt", "assistant"),
        ("function", "tool"), ("observation", "tool"), ("tool", "tool"), ("assistant", "assistant"),
    ]  # fmt: skip
    turns = [{"from": speaker, "value": "x"} for speaker, _ in speakers]
    record = read_row(tmp_path, {"conversations": turns, "tools": '[{"name": "f"}]'})
    assert [message["role"] for message in record.messages] == [role for _, role in speakers]
    assert record.tools == ({"name": "f"},)


@pytest.mark.parametrize("turns", [[USER, ANSWER], [{"from": "system", "value": "Be brief."}, USER, ANSWER]])
def test_a_system_key_is_the_system_turn(turns: list[object], tmp_path: Path) -> None:
    record = read_row(tmp_path, {"conversations": turns, "system": "Be brief."})
    assert record.messages == ({"role": "system", "content": "Be brief."}, USER, ANSWER)


def test_two_different_system_turns_are_refused(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, USER, ANSWER]
    with pytest.raises(DataError, match="begin with another system turn than 'system' says"):
        read_row(tmp_path, {"conversations": turns, "system": "Be kind."})


def test_a_prompt_and_a_completion_are_two_turns(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"prompt": "Hi", "completion": "Yo"})
    assert (record.messages, record.prompt, record.completion) == ((USER, ANSWER), "Hi", "Yo")


def test_answers_within_a_prompt_are_not_trained(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert (record.messages, record.prompt, record.untrained) == ((USER, ANSWER, USER, ANSWER), None, (1,))


def test_an_instruction_and_its_input_are_one_prompt(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"instruction": "Add.", "input": "1 2", "output": "3"})
    assert record.messages == ({"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"})
    assert (record.prompt, record.completion) == ("Add.\n\n1 2", "\n\n3")
    for row in ({"instruction": "Hi", "input": "", "output": "Yo"}, {"instruction": "Hi", "output": "Yo"}):
        assert read_row(tmp_path, row).messages == (USER, ANSWER)


def test_a_developer_is_the_system_and_text_parts_are_one_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "input_text", "text": "i"}]
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}, ANSWER]
    assert read_row(tmp_path, {"messages": turns}).messages == (
        {"role": "system", "content": "Be brief."},
        USER,
        ANSWER,
    )


def test_an_empty_answer_is_read_and_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        {"conversations": [{"from": "gpt", "value": ""}]},
    ]
    remarks = Remarks()
    for row in rows:
        assert to_record(row, "f:1", remarks).messages[-1] == {"role": "assistant", "content": ""}
    to_record({"messages": [USER, CALL, ANSWER]}, "f:3", remarks)
    assert remarks.empty == 2


def test_calls_of_sharegpt_become_tool_calls(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": {"q": 1}}
    turns = [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": json.dumps(call)}]
    turns += [{"from": "observation", "value": "found"}, {"from": "model", "value": "Yo"}]
    expected = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    tool = {"role": "tool", "content": "found"}
    assert read_row(tmp_path, {"conversations": turns}).messages == (USER, expected, tool, ANSWER)
    turns[1]["value"] = json.dumps([call, call])
    assert len(read_row(tmp_path, {"conversations": turns}).messages[1]["tool_calls"]) == 2


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": False}, {"weight": 0.0}]
)
def test_marks_of_a_turn_are_taken_out_and_honoured(tmp_path: Path, mark: dict) -> None:
    turns = [USER, {**ANSWER, **mark}, {**USER, "weight": 0}, {**ANSWER, "train": True}]
    record = read_row(tmp_path, {"messages": turns})
    assert (record.messages, record.untrained) == ((USER, ANSWER, USER, ANSWER), (1,))
    spoken = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo", **mark}] * 2
    spoken[3] = {"from": "gpt", "value": "Yo"}
    record = read_row(tmp_path, {"conversations": spoken, "system": "Be brief."})
    assert (record.untrained, record.messages[2:]) == ((2,), (ANSWER, USER, ANSWER))
    context = {"prompt": [USER, ANSWER, USER], "completion": [{**ANSWER, **mark}, USER, ANSWER]}
    assert read_row(tmp_path, context).untrained == (1, 3)


def test_marked_turns_of_others_are_counted() -> None:
    remarks = Remarks()
    to_record({"messages": [{**USER, "train": True}, ANSWER]}, "f:1", remarks)
    to_record({"messages": [{**USER, "train": False}, ANSWER]}, "f:2", remarks)
    assert remarks.marked == 1


def test_what_is_not_used_is_counted() -> None:
    remarks = Remarks()
    for number in range(3):
        to_record({"messages": [USER, ANSWER], "id": number, "source": "x" if number else None}, "f:1", remarks)
    to_record({"conversations": [{"from": "gpt", "value": "x", "mood": "good"}] * 2, "id": 1}, "f:4", remarks)
    to_record({"instruction": "x", "output": "y", "tools": []}, "f:5", remarks)
    assert remarks.unused == {"id": 4, "source": 2, "conversations[].mood": 1, "tools": 1}


def test_columns_map_any_names() -> None:
    columns = {Column.PROMPT: "text", Column.COMPLETION: "category"}
    remarks = Remarks()
    row = {"text": "Hi", "category": "Yo", "prompt": "other", "messages": [], "id": 1}
    record = to_record(row, "f:1", remarks, columns)
    assert record == to_record({"prompt": "Hi", "completion": "Yo"}, "f:1")
    assert remarks.unused == {"prompt": 1, "messages": 1, "id": 1}
    assert to_record({"text": "a", "label": "b"}, "f:1", None, {Column.TEXT: "text"}).text == "a"
    alpaca = {Column.INSTRUCTION: "q", Column.INPUT: "more", Column.OUTPUT: "a"}
    assert to_record({"q": "Hi", "a": "Yo", "more": None}, "f:1", None, alpaca).messages == (USER, ANSWER)
    with pytest.raises(BadRow, match=r"the row has no 'text', which data.columns names; it has 'a', 'b'"):
        to_record({"a": 1, "b": 2}, "f:1", None, columns)
    named = "there is a prompt but no completion; data.columns names 'category', which the row does not have"
    with pytest.raises(BadRow, match=named):
        to_record({"text": "a"}, "f:1", None, columns)
    with pytest.raises(BadRow, match=r"but no completion; null counts as absent: 'category'$"):
        to_record({"text": "a", "category": None}, "f:1", None, columns)


def test_a_text_is_a_record_without_messages(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"text": "a b", "meta": 1})
    assert (record.text, record.messages) == ("a b", ())


BAD_ROWS: list[tuple[object, str]] = [
    ([1], "a row must be an object, not a list"),
    ("x", "a row must be an object, not a string"),
    (None, "a row must be an object, not null"),
    ({"question": "q", "answer": "a"}, "no format is known for the keys 'question', 'answer'; known: messages |"),
    ({}, "no format is known for the keys none"),
    ({"text": 5}, "text must be a string, not a number"),
    ({"text": ""}, "text is empty"),
    ({"messages": "x"}, "messages must be a list of turns, not a string"),
    ({"messages": []}, "the conversation is empty"),
    ({"messages": [USER]}, "there is no assistant turn"),
    ({"messages": ["x"]}, "messages[0] must be an object, not a string"),
    ({"messages": [{"content": "x"}]}, "messages[0] has the role None; known: system, user, assistant, tool"),
    (
        {"messages": [{"role": "asistant", "content": "x"}]},
        "'asistant'; known: system, user, assistant, tool, developer, function (did you mean 'assistant'?)",
    ),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0] has the role 1"),
    ({"messages": [{"role": "user"}, ANSWER]}, "messages[0] has no content"),
    (
        {"messages": [{"role": "user", "content": ["x"]}, ANSWER]},
        "messages[0].content must be a string or a list of text parts; its item 0 is a string",
    ),
    ({"messages": [USER, {"role": "assistant"}]}, "messages[1] is an assistant turn without content or tool calls"),
    ({"messages": [USER, {"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "[0] is of type 'image_url'"),
    ({"messages": [USER, {**ANSWER, "content": [{"type": "text"}]}]}, "messages[1].content[0] has no text"),
    ({"messages": [USER, {**ANSWER, "weight": 0}]}, "there is no assistant turn that is trained"),
    ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "messages[1].weight is 0.5; a turn is trained (1 or true) or"),
    ({"messages": [USER, {**ANSWER, "weight": 1, "train": False}]}, "messages[1] says both that it is trained and"),
    ({"messages": [USER, {**ANSWER, "train_detail": [{}]}]}, "messages[1].train_detail marks parts of a turn"),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": "f"}]},
        "messages[1].tool_calls must be a list of objects",
    ),
    ({"messages": [USER, {**ANSWER, "name": 1}]}, "messages[1].name must be a string"),
    ({"messages": [USER, {**ANSWER, "thinking": ["a"]}]}, "messages[1].thinking must be a string, not a list"),
    ({"messages": [USER, {"role": "assistant", "reasoning": 5}]}, "messages[1].reasoning must be a string"),
    ({"messages": [USER, ANSWER], "tools": {"a": 1}}, "tools must be a list of objects, not an object"),
    ({"messages": [USER, ANSWER], "tools": "["}, "tools is not JSON"),
    ({"messages": [USER, ANSWER], "tools": '["\\ud800"]'}, "a lone surrogate (U+D800)"),
    ({"messages": [USER, ANSWER], "tools": "[" * 150 + "]" * 150}, "nested more than 100 levels deep"),
    (
        {"mr": "a", "ref": "b"},
        f"if 'ref' is the answer to 'mr', set {MAPPING_SETTING}: {{prompt: mr, completion: ref}}",
    ),
    ({"answer": "a", "question": "b"}, f"set {MAPPING_SETTING}: {{prompt: question, completion: answer}}"),
    ({"id": "1", "first col": "a", "label": "b"}, f"{MAPPING_SETTING}: {{prompt: NAME, completion: NAME}}"),
    ({"first col": "a", "no": "b"}, MAPPING_SETTING + ': {prompt: "first col", completion: "no"}'),
    (
        {"text": "a", "category": "b"},
        f"set {MAPPING_SETTING}: {{prompt: text, completion: category}}; to train only the text, set {{text: text}}",
    ),
    (
        {"text": "a", "Label": 3},
        f"and plain text would leave the Label out; if that is the answer, set {MAPPING_SETTING}",
    ),
    ({"messages": None}, "no format is known for the keys none; known: messages | conversations"),
    ({"messages": None}, "; null counts as absent: 'messages'"),
    (
        {"id": 1, "note": None, "prompt": "a", "completion": None},
        "but no completion; null counts as absent: 'completion'",
    ),
    ({"prompt": "a", "response": "b"}, f"set {MAPPING_SETTING}: {{prompt: prompt, completion: response}}"),
    ({"conversations": {}}, "conversations must be a list of turns, not an object"),
    ({"conversations": [1]}, "conversations[0] must be an object"),
    ({"conversations": [{"from": "bot", "value": "x"}]}, "conversations[0] is from 'bot'; known: human,"),
    ({"conversations": [{"from": "gpt"}]}, "conversations[0] has no value"),
    ({"conversations": [{"from": "function_call", "value": "f()"}]}, "conversations[0].value must be a call as JSON"),
    ({"conversations": [{"from": "function_call", "value": '{"x": 1}'}]}, 'must be {"name": ..., "arguments": ...}'),
    ({"conversations": [{"from": "function_call", "value": "[]"}]}, "conversations[0].value is an empty list of calls"),
    ({"conversations": [{"from": "function_call", "value": '["\\u0000"]'}]}, "a NUL character"),
    ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value must be a string"),
    ({"prompt": "x"}, "there is a prompt but no completion"),
    ({"completion": "x"}, "there is a completion but no prompt"),
    ({"prompt": "x", "completion": ""}, "completion is empty"),
    (
        {"prompt": "x", "completion": 1},
        "two strings or two lists of turns, not a string and a number; write a class by its name",
    ),
    (
        {"prompt": json.dumps([USER]), "completion": str([ANSWER])},
        "prompt and completion are lists of turns that were written as texts; write the rows as JSON lines",
    ),
    ({"prompt": [USER, ANSWER], "completion": [USER]}, "there is no assistant turn"),
    ({"instruction": "x"}, "there is an instruction but no output"),
    ({"output": "x"}, "there is an output but no instruction"),
    ({"instruction": "x", "output": ""}, "output is empty"),
    ({"instruction": "x", "input": [], "output": "x"}, "input must be a string, not a list"),
]


@pytest.mark.parametrize(("line", "reason"), [(json.dumps(row).encode(), why) for row, why in BAD_ROWS])
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    message = problem(path)
    assert f"{path}:2: " in message
    assert reason in message
    assert "1 of 3 rows cannot be used" in message


@pytest.mark.parametrize("row", [row for row, _ in BAD_ROWS[3:]])
def test_parsed_files_name_bad_rows_too(tmp_path: Path, row: object) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps([{"text": "good"}, row]))
    assert f"{path}:2: " in problem(path)


def test_functions_in_openais_older_spelling_are_tools() -> None:
    functions = [{"name": "find", "parameters": {}}]
    row = {"messages": [{"role": "assistant", "content": "a"}], "functions": functions}
    remarks = Remarks()
    assert to_record(row, "f:1", remarks).tools == ({"type": "function", "function": functions[0]},)
    assert not remarks.unused
    for other in ("a text", ["a"], [{"title": "a"}]):
        assert to_record(row | {"functions": other}, "f:1", remarks).tools is None
    assert remarks.unused == {"functions": 3}
