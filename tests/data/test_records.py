from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veneer.data.records import Record, duplicates, overlap, read_records
from veneer.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_row(tmp_path: Path, row: object) -> Record:
    (record,) = read_records(write(tmp_path / "f.jsonl", row))
    return record


def problem(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_records(path)
    return str(error.value)


# ---------------------------------------------------------------- formats


def test_chat(tmp_path: Path) -> None:
    tool = {"role": "tool", "content": "found", "tool_call_id": "1", "name": "f"}
    record = read_row(tmp_path, {"messages": [USER, CALL, tool, ANSWER], "tools": [{"name": "f"}], "id": 7})
    assert record.messages == (USER, CALL, tool, ANSWER)
    assert record.tools == ({"name": "f"},)
    assert record.where == f"{tmp_path / 'f.jsonl'}:1"
    assert (record.text, record.prompt, record.train_from) == (None, None, 0)


def test_null_keys_count_as_absent(tmp_path: Path) -> None:
    call = {**CALL, "content": None, "name": None}
    record = read_row(tmp_path, {"messages": [USER, call], "text": None, "tools": None})
    assert record.messages == (USER, CALL)


def test_consecutive_roles_and_a_trailing_question_are_allowed(tmp_path: Path) -> None:
    assert len(read_row(tmp_path, {"messages": [ANSWER, USER, USER, ANSWER, ANSWER, USER]}).messages) == 6


def test_sharegpt(tmp_path: Path) -> None:
    speakers = [
        ("system", "system"),
        ("human", "user"),
        ("gpt", "assistant"),
        ("user", "user"),
        ("chatgpt", "assistant"),
    ]
    speakers += [("function", "tool"), ("observation", "tool"), ("tool", "tool"), ("assistant", "assistant")]
    turns = [{"from": speaker, "value": "x"} for speaker, _ in speakers]
    record = read_row(tmp_path, {"conversations": turns, "tools": '[{"name": "f"}]'})
    assert [message["role"] for message in record.messages] == [role for _, role in speakers]
    assert record.tools == ({"name": "f"},)
    record = read_row(tmp_path, {"conversations": [USER, ANSWER], "system": "Be brief."})
    assert record.messages == ({"role": "system", "content": "Be brief."}, USER, ANSWER)


def test_prompt_and_completion(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"prompt": "Hi", "completion": "Yo"})
    assert (record.messages, record.prompt, record.completion) == ((USER, ANSWER), "Hi", "Yo")
    record = read_row(tmp_path, {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert (record.messages, record.prompt, record.train_from) == ((USER, ANSWER, USER, ANSWER), None, 3)


def test_alpaca(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"instruction": "Add.", "input": "1 2", "output": "3"})
    assert record.messages == ({"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"})
    assert (record.prompt, record.completion) == ("Add.\n\n1 2", "\n\n3")
    for row in ({"instruction": "Hi", "input": "", "output": "Yo"}, {"instruction": "Hi", "output": "Yo"}):
        assert read_row(tmp_path, row).messages == (USER, ANSWER)


def test_text(tmp_path: Path) -> None:
    record = read_row(tmp_path, {"text": "a b", "meta": 1})
    assert (record.text, record.messages) == ("a b", ())


@pytest.mark.parametrize("content", [[{"text": "a"}, {"text": "b"}], {"data": [{"text": "a"}, {"text": "b"}]}])
def test_json(tmp_path: Path, content: object) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content, indent=2).replace("\n", "\r\n").encode())
    assert [(record.text, record.where) for record in read_records(path)] == [("a", f"{path}:1"), ("b", f"{path}:2")]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle).writerows(
            [["prompt", "completion", "id"], ["two\nlines", 'a "b", c', "1"], [], ["Hi", "Yo", ""]]
        )
    first, second = read_records(path)
    assert (first.prompt, first.completion, first.where) == ("two\nlines", 'a "b", c', f"{path}:2")
    assert (second.messages, second.where) == ((USER, ANSWER), f"{path}:5")
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["messages", "tools"], [json.dumps([USER, ANSWER]), ""]])
    assert read_records(path)[0].messages == (USER, ANSWER)
    path.write_text("instruction,input,output\nHi,,Yo\n")
    assert read_records(path)[0].messages == (USER, ANSWER)
    path.write_text("text\n" + "x" * 300_000 + "\n")  # more than the csv module's own limit
    limit = csv.field_size_limit()
    assert len(read_records(path)[0].text or "") == 300_000
    assert csv.field_size_limit() == limit


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    calls = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {key: 1}}]} for key in "ab"]
    pq.write_table(pa.Table.from_pylist([{"messages": [USER, *calls]}, {"messages": [USER, ANSWER]}]), path)
    first, second = read_records(path)
    # Parquet fills the columns of a struct with nulls: neither call had the other's argument.
    assert [message["tool_calls"][0]["arguments"] for message in first.messages[1:]] == [{"a": 1}, {"b": 1}]
    assert (second.messages, second.where) == ((USER, ANSWER), f"{path}:2")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'veneer[parquet]'" in problem(tmp_path / "f.parquet")


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1nothing")
    assert "invalid Parquet after row 0" in problem(tmp_path / "f.parquet")


# ---------------------------------------------------------------- bytes


def test_bom_crlf_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert [(record.text, record.where) for record in read_records(path)] == [("a", f"{path}:1"), ("b", f"{path}:4")]


def test_emoji_escapes_are_no_lone_surrogates(tmp_path: Path) -> None:
    assert read_row(tmp_path, {"text": "🗼"}).text == "🗼"


def test_a_line_of_10_mb(tmp_path: Path) -> None:
    assert len(read_row(tmp_path, {"text": "word " * 2_000_000}).text or "") == 10_000_000


BAD_LINES = [
    (b'{"text": "a"', "invalid JSON: Expecting ',' delimiter at column"),
    (b"not json", "invalid JSON: Expecting value at column 1"),
    (b"[" * 100_000, "invalid JSON"),
    (b'{"text": ' + b"1" * 5000 + b"}", "invalid JSON"),
    (b'{"text": "\xff"}', "invalid UTF-8 at byte 10 of the line (0xff)"),
    (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8 at byte 10"),
    (b'{"text": "a\x00"}', "a NUL character at column 12"),
    (b'{"text": "a\\u0000"}', "a NUL character at character 1 of text"),
    (b'{"text": "a\\ud83d"}', "a lone surrogate (U+D83D) at character 1 of text"),
    (b'{"messages": [{"role": "user", "content": "\\udfff"}]}', "U+DFFF) at character 0 of messages[0].content"),
    (b'{"te\\u0000xt": "a"}', "a NUL character at character 2 of a key"),
]
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
        "'asistant'; known: system, user, assistant, tool (did you mean",
    ),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0] has the role 1"),
    ({"messages": [{"role": "user"}, ANSWER]}, "messages[0] has no content"),
    ({"messages": [{"role": "user", "content": ["x"]}, ANSWER]}, "messages[0].content must be a string, not a list"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "messages[1] is an assistant turn without content"),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": "f"}]},
        "messages[1].tool_calls must be a list of objects",
    ),
    ({"messages": [USER, {**ANSWER, "name": 1}]}, "messages[1].name must be a string"),
    ({"messages": [USER, ANSWER], "tools": {"a": 1}}, "tools must be a list of objects, not an object"),
    ({"messages": [USER, ANSWER], "tools": "["}, "tools is not JSON"),
    ({"conversations": {}}, "conversations must be a list of turns, not an object"),
    ({"conversations": [1]}, "conversations[0] must be an object"),
    ({"conversations": [{"from": "bot", "value": "x"}]}, "conversations[0] is from 'bot'; known: human,"),
    ({"conversations": [{"from": "gpt"}]}, "conversations[0] has no value"),
    ({"conversations": [{"from": "gpt", "value": ""}]}, "conversations[0] is an assistant turn without content"),
    ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value must be a string"),
    ({"prompt": "x"}, "there is a prompt but no completion"),
    ({"completion": "x"}, "there is a completion but no prompt"),
    ({"prompt": "x", "completion": ""}, "completion is empty"),
    ({"prompt": "x", "completion": 1}, "two strings or two lists of turns, not a string and a number"),
    ({"prompt": [USER, ANSWER], "completion": [USER]}, "there is no assistant turn"),
    ({"instruction": "x"}, "there is an instruction but no output"),
    ({"output": "x"}, "there is an output but no instruction"),
    ({"instruction": "x", "output": ""}, "output is empty"),
    ({"instruction": "x", "input": [], "output": "x"}, "input must be a string, not a list"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES + [(json.dumps(row).encode(), why) for row, why in BAD_ROWS])
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


BAD_CSV = [
    (b"text\na\n\xff\n", "f.csv:3: invalid UTF-8 (or a lone surrogate) at byte 0 of text (0xff)"),
    (b"text\na\x00b\n", "f.csv:2: a NUL character at character 1 of text"),
    (b"prompt,completion\na\n", "f.csv:2: 1 cells, but the header names 2 columns"),
    (b"messages\n[x]\n", "f.csv:2: column 'messages' is not JSON"),
    (b'messages\n"[{""role"":""user"",""content"":""\\u0000""}]"\n', "f.csv:2: a NUL character"),
    (b"text,text\na,b\n", "f.csv:1: a column name is repeated"),
    (b"question\na\n", "f.csv:2: no format is known for the keys 'question'"),
    (b"text\n", "holds no rows"),
    (b"", "holds no rows"),
]


@pytest.mark.parametrize(("content", "reason"), BAD_CSV)
def test_bad_csv(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    assert reason in problem(tmp_path / "f.csv")


BAD_FILES = [
    ("f.jsonl", b"", "holds no rows"),
    ("f.jsonl", b"\n\n", "holds no rows"),
    ("f.json", b"[]", "holds no rows"),
    ("f.json", b'{"rows": []}', 'neither a list of objects nor {"data": [...]}, but an object'),
    ("f.json", b'{"text": "a"}\n{"text": "b"}', "name the file .jsonl"),
    ("f.json", b'[\n{"text": "\xff"}]', "f.json:2: invalid UTF-8 at byte 12 of the file"),
    ("f.json", b"[" * 100_000, "invalid JSON"),
    ("f.jsonl", b'\xff\xfe{\x00"\x00', "is UTF-16; save it as UTF-8"),
    ("f.txt", b"x", "ends in '.txt'; veneer reads .jsonl, .json, .csv, .parquet"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES)
def test_bad_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason in problem(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none.jsonl")
    assert "is a folder" in problem(tmp_path)


def test_a_hundred_thousand_lines_with_one_percent_bad(tmp_path: Path) -> None:
    good, bad = json.dumps({"messages": [USER, ANSWER]}), json.dumps({"messages": [USER]})
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(bad if number % 100 == 0 else good for number in range(1, 100_001)))
    start = time.perf_counter()
    message = problem(path)
    assert "1000 of 100000 rows cannot be used" in message
    assert message.count("no assistant turn") == 20
    assert f"{path}:2000: " in message
    assert "… and 980 more" in message
    assert time.perf_counter() - start < 10


# ---------------------------------------------------------------- repeats


def test_duplicates_and_overlap(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, ANSWER]},
        {"text": "a"},
        {"prompt": "Hi", "completion": "Yo"},
        {"text": "a"},
        {"text": "b"},
    ]
    train = read_records(write(tmp_path / "t.jsonl", *rows))
    name = f"{tmp_path / 't.jsonl'}"
    assert duplicates(train) == [(f"{name}:3", f"{name}:1"), (f"{name}:4", f"{name}:2")]
    heldout = read_records(write(tmp_path / "e.jsonl", {"text": "new"}, {"text": "a"}))
    assert overlap(train, heldout) == [(f"{tmp_path / 'e.jsonl'}:2", f"{name}:2")]
    assert overlap(heldout[:1], train) == []
