"""Files to rows: bytes, lines, cells, and what is broken in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.rows.row_files import problem
from veneer.data.files.readers import count_lines
from veneer.data.records import read_records
from veneer.errors import DataError


@pytest.mark.scenario(number=24)
def test_bom_crlf_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert [(record.text, record.where) for record in read_records(path)] == [("a", f"{path}:1"), ("b", f"{path}:4")]


BAD_FILES = [
    ("f.jsonl", b"", "holds no rows"),
    ("f.jsonl", b"\n\n", "holds no rows"),
    ("f.json", b"[]", "holds no rows"),
    ("f.json", b'{"rows": []}', 'must hold a list of objects or {"data": [...]}, not an object'),
    ("f.json", b'{"text": "a"}\n{"text": "b"}', "name the file .jsonl"),
    ("f.json", b'[\n{"text": "\xff"}]', "f.json:2: invalid UTF-8 at byte 12 of the file"),
    ("f.json", b"[" * 100_000, "invalid JSON: nested more than 100 levels deep"),
    ("f.json", b'[{"text": "a", "b": ' + b"[" * 200 + b"]" * 200 + b"}]", "f.json:1: nested more than 100"),
    ("f.json", b'[{"text": "a", "text": "b"}]', "f.json: the key 'text' is twice in an object, with 'a' and 'b'"),
    ("f.jsonl", b'\xff\xfe{\x00"\x00', "is UTF-16; save it as UTF-8"),
    ("f.jsonl", b"\x1f\x8b\x08\x00\n", "f.jsonl is compressed by gzip; decompress it (gunzip), and give the resulting"),
    ("f.csv", b"PK\x03\x04\x14\x00", "f.csv is a ZIP archive, like spreadsheets (.xlsx); unpack it, or save"),
    ("f.json", b"\x28\xb5\x2f\xfd", "f.json is compressed by Zstandard; decompress it"),
    (
        "f.jsonl",
        b'[{"text": "a"}, {"text": "b"}]\n\n',
        "f.jsonl:1: a JSON array begins here; JSON Lines has one object",
    ),
    ("f.jsonl", b'\n[\n  {"text": "a"},\n  {"text": "b"}\n]\n', "f.jsonl:2: a JSON array begins here"),
    ("f.jsonl", b'[{"text": "a"},\n {"text": "b"}]\n', "f.jsonl:1: a JSON array begins here"),
    ("f.jsonl", b'{\n  "text": "a"\n}\n', "f.jsonl:1: an object spans several lines; JSON Lines has one"),
    ("f.jsonl", b'["a"]\n["b"]\n', "a row must be an object, not a list"),
    ("f.jsonl", b"PAR1\n", "f.jsonl is Parquet; name it .parquet"),
    ("f", b"x", "f has no suffix; veneer reads .jsonl, .json, .csv, .tsv, .parquet"),
    ("f.txt", b"x", "ends in '.txt'; veneer reads .jsonl, .json, .csv, .tsv, .parquet"),
]


@pytest.mark.scenario(number=24)
@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason in problem(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none.jsonl")
    assert "is a folder" in problem(tmp_path)


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe"])
def test_a_file_that_is_none_of_a_disk_is_not_said_to_be_missing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is a pipe or a device, .*; write them into a file"):
        read_records(tmp_path / name)


@pytest.mark.parametrize(("content", "count"), [("", 0), ("{}", 1), ("{}\n", 1), ("{}\n{}", 2), ("{}\n{}\n", 2)])
def test_a_last_line_without_an_end_counts(tmp_path: Path, content: str, count: int) -> None:
    (tmp_path / "f.jsonl").write_text(content)
    (tmp_path / "g.jsonl").write_text("{}\n")
    assert count_lines([str(tmp_path / "f.jsonl"), str(tmp_path / "g.jsonl")]) == count + 1
    assert count_lines([str(tmp_path / "f.jsonl"), str(tmp_path / "g.csv")]) is None
