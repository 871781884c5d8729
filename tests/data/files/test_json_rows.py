"""Files of JSON and JSON Lines, and lines that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.rows.row_files import problem, read_row
from veneer.data.records import read_records


@pytest.mark.parametrize("content", [[{"text": "a"}, {"text": "b"}], {"data": [{"text": "a"}, {"text": "b"}]}])
def test_an_array_and_an_object_that_holds_one_are_rows(tmp_path: Path, content: object) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content, indent=2).replace("\n", "\r\n").encode())
    assert [(record.text, record.where) for record in read_records(path)] == [("a", f"{path}:1"), ("b", f"{path}:2")]


def test_emoji_escapes_are_no_lone_surrogates(tmp_path: Path) -> None:
    assert read_row(tmp_path, {"text": "🗼"}).text == "🗼"


@pytest.mark.scenario(number=24)
def test_a_line_of_10_mb(tmp_path: Path) -> None:
    assert len(read_row(tmp_path, {"text": "word " * 2_000_000}).text or "") == 10_000_000


BAD_LINES = [
    (b'{"text": "a"', "invalid JSON: Expecting ',' delimiter at column"),
    (b"not json", "invalid JSON: Expecting value at column 1"),
    (b"[" * 100_000, "nested more than 100 levels deep"),
    (b"[" * 100_000 + b"]" * 100_000, "nested more than 100 levels deep"),
    (b'{"text": "a", "b": ' + b"[" * 101 + b"]" * 101 + b"}", "nested more than 100 levels deep"),
    (b'{"text": "a", "b": ' + b'{"x": ' * 900 + b"1" + b"}" * 901, "nested more than 100 levels deep"),
    (b'{"text": ' + b"1" * 5000 + b"}", "invalid JSON"),
    (b'{"text": "\xff"}', "invalid UTF-8 at byte 10 of the line (0xff)"),
    (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8 at byte 10"),
    (b'{"text": "a\x00"}', "a NUL character at column 12"),
    (b'{"text": "a\\u0000"}', "a NUL character at character 1 of text"),
    (b'{"text": "a\\ud83d"}', "a lone surrogate (U+D83D) at character 1 of text"),
    (b'{"messages": [{"role": "user", "content": "\\udfff"}]}', "U+DFFF) at character 0 of messages[0].content"),
    (b'{"te\\u0000xt": "a"}', "a NUL character at character 2 of a key"),
    (b'{"text": "a", "n": 1, "te\\u0078t": "b"}', "the key 'text' is twice in an object, with 'a' and 'b'"),
    (
        b'{"messages": [{"role": "user", "content": "q", "content": "q"}]}',
        "the key 'content' is twice in an object",
    ),
]


@pytest.mark.scenario(number=24)
@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    message = problem(path)
    assert f"{path}:2: " in message
    assert reason in message
    assert "1 of 3 rows cannot be used" in message
