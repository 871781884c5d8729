"""Files of CSV: their cells, quotes and names of columns, and what is broken in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from helpers.rows.row_files import ANSWER, USER, problem
from veneer.data.files.readers import iterate_rows
from veneer.data.records import read_file, read_records
from veneer.enums import BadRows, Column


def test_a_csv_row_is_a_record_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle).writerows(
            [["prompt", "completion", "id"], ["two\nlines", 'a "b", c', "1"], [], ["Hi", "Yo", ""]]
        )
    first, second = read_records(path)
    assert (first.prompt, first.completion, first.where) == ("two\nlines", 'a "b", c', f"{path}:2")
    assert (second.messages, second.where) == ((USER, ANSWER), f"{path}:5")


def test_messages_in_a_csv_are_json(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["messages", "tools"], [json.dumps([USER, ANSWER]), ""]])
    assert read_records(path)[0].messages == (USER, ANSWER)


def test_an_empty_cell_of_a_csv_is_no_input(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("instruction,input,output\nHi,,Yo\n")
    assert read_records(path)[0].messages == (USER, ANSWER)


def test_a_csv_field_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("text\n" + "x" * 300_000 + "\n")
    limit = csv.field_size_limit()
    assert len(read_records(path)[0].text or "") == 300_000
    assert csv.field_size_limit() == limit


def test_cells_of_csv_hold_json_by_what_their_columns_are_mapped_to(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    turns = json.dumps([USER, ANSWER])
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [["chat", "messages", "about"], [turns, "three of them", "what"], [turns, "", "x"]]
        )
    columns = {Column.MESSAGES: "chat"}
    assert [record.messages for record in read_file(path, columns=columns).records] == [(USER, ANSWER)] * 2
    assert [row["messages"] for _, row in iterate_rows(path, columns=columns)] == ["three of them", ""]
    assert "column 'messages': invalid JSON" in problem(path)
    columns = {Column.PROMPT: "about", Column.COMPLETION: "messages"}
    (record,) = read_file(path, columns=columns, bad_rows=BadRows.SKIP).records
    assert record.completion == "three of them"


def test_files_of_csv_with_large_cells_are_read_side_by_side(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\n" + "short\n" + ("x" * 300_000 + "\n") * 2)
    limit = csv.field_size_limit()
    first, second = (iterate_rows(tmp_path / name) for name in ("a.csv", "b.csv"))
    next(first)
    next(second)
    assert len(list(first)) == 2
    assert csv.field_size_limit() > 300_000
    assert [len(row["text"]) for _, row in second] == [300_000] * 2
    assert csv.field_size_limit() == limit


def test_empty_csv_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    """As a spreadsheet saves a table beside which there was something once."""
    (tmp_path / "t.csv").write_text("prompt,,completion,,\na,,b,,\nc,,d,,\n,,,,\n")
    notes: list[str] = []
    rows = [row for _, row in iterate_rows(tmp_path / "t.csv", notes)]
    assert rows == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert notes == [f"{tmp_path / 't.csv'}: rows with only empty cells, which are left out: 1"]
    (tmp_path / "one.csv").write_text(",text\n1,a\n")
    assert [row for _, row in iterate_rows(tmp_path / "one.csv")] == [{"": "1", "text": "a"}]


def test_csv_rows_of_empty_cells_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text('prompt,completion\na,b\n\n,\n"",""\nc,d\n')
    found = read_file(path)
    assert [record.prompt for record in found.records] == ["a", "c"]
    assert found.notes == (f"{path}: rows with only empty cells, which are left out: 2",)


def test_rows_that_two_missing_quotes_make_one_cell_of_are_told_of(tmp_path: Path) -> None:
    """By the rules of CSV this is a cell over four lines; what opens it and what closes it are slips."""
    path = tmp_path / "f.csv"
    path.write_text('prompt,completion\na,b\nc,"d\ne,f\ng,h\ni,j"\nk,l\n')
    found = read_file(path)
    assert [record.prompt for record in found.records] == ["a", "c", "k"]
    (note,) = found.notes
    assert note.startswith(f"{path}: rows with a cell of several lines that each look like a row of this file: 1 ")
    assert note.endswith(f"(first: {path}:3); if the lines are rows, a quote is missing there")
    path.write_text('prompt,completion\na,"one\ntwo, three\nfour"\nb,"one\n"\nc,"x, y\n\nz"\n')
    assert read_file(path).notes == ()
    path.write_text('text\n"one\ntwo"\n')
    assert read_file(path).notes == ()


def test_quotes_behind_a_space_are_text_and_told_of(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\nWhy?, "So."\nHow?," ""So."""\nWho?, She said "me"\n')
    found = read_file(path)
    assert found.records[0].completion == ' "So."'
    (note,) = found.notes
    assert note.startswith(f"{path}: rows with a cell whose quotes follow a space, and so are part of its text: 2 ")
    assert f"(first: {path}:2)" in note
    path.write_text('prompt,completion\nWhy?,"So."\n')
    assert read_file(path).notes == ()


@pytest.mark.parametrize("before", [b"", b"\n\n", b" \r\n,\r\n", b"\xef\xbb\xbfsep=,\r\n", b'"sep=,",\n', b"SEP=,\n\n"])
def test_what_stands_before_the_names_of_columns_is_passed_over(tmp_path: Path, before: bytes) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(before + b"prompt,completion\nx,y\n")
    line = before.count(b"\n") + 2
    assert list(iterate_rows(file)) == [(f"{file}:{line}", {"prompt": "x", "completion": "y"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"prompt;completion\na, b;2,5\n", "semicolons"),
        (b'\xef\xbb\xbf"prompt";"completion"\r\n"a, b";"2,5"\r\n', "semicolons"),
        (b'"sep=;"\r\nprompt;completion\r\n"a, b";2,5\r\n', "semicolons"),
        (b"\n\nprompt\tcompletion\na, b\t2,5\n", "tabs"),
        (b"prompt|completion\na, b|2,5\n", "bars"),
        (b'prompt;"completion"\n"a, b";"2,5"\n', "semicolons"),
    ],
)
def test_columns_without_commas_may_have_another_separator(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    notes: list[str] = []
    rows = list(iterate_rows(tmp_path / "f.csv", notes))
    line = content.count(b"\n")
    assert rows == [(f"{tmp_path / 'f.csv'}:{line}", {"prompt": "a, b", "completion": "2,5"})]
    assert notes == [f"{tmp_path / 'f.csv'}: the columns are separated by {said}"]


def test_a_cell_may_hold_the_separator_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle, delimiter=";").writerows([["prompt", "completion"], ["a; b\nc", 'so; "x"'], ["d", "e"]])
    first, second = read_records(path)
    assert (first.prompt, first.completion, first.where) == ("a; b\nc", 'so; "x"', f"{path}:2")
    assert second.where == f"{path}:4"


def test_a_header_with_commas_has_commas_whatever_else_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("prompt,completion,a;b\nx,y,1;2\n")
    assert list(iterate_rows(path)) == [(f"{path}:2", {"prompt": "x", "completion": "y", "a;b": "1;2"})]


def test_a_comma_inside_quotes_separates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text('prompt;"completion, short"\nx;y\n')
    assert list(iterate_rows(path)) == [(f"{path}:2", {"prompt": "x", "completion, short": "y"})]


def test_a_tsv_file_has_tabs(tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    path.write_text("prompt, or so\tcompletion\nx, y\tz\n")
    notes: list[str] = []
    assert list(iterate_rows(path, notes)) == [(f"{path}:2", {"prompt, or so": "x, y", "completion": "z"})]
    assert notes == []
    path.write_text("text\nx, y\n")
    assert [row for _, row in iterate_rows(path)] == [{"text": "x, y"}]
    path.write_text("sep=;\nprompt;completion\nx;y\n")
    assert list(iterate_rows(path, notes)) == [(f"{path}:3", {"prompt": "x", "completion": "y"})]
    assert notes == [f"{path}: the columns are separated by semicolons"]


BAD_CSV = [
    (b"text\na\n\xff\n", "f.csv:3: invalid UTF-8 (or a lone surrogate) at byte 0 of text (0xff)"),
    (b"text\na\x00b\n", "f.csv:2: a NUL character at character 1 of text"),
    (b"prompt,completion\na\n", "f.csv:2: 1 cells, but the header names 2 columns"),
    (b"messages\n[x]\n", "f.csv:2: column 'messages': invalid JSON"),
    (b'messages\n"[{""role"": 1, ""role"": 2}]"\n', "f.csv:2: column 'messages': the key 'role' is twice"),
    (b'messages\n"[{""role"":""user"",""content"":""\\u0000""}]"\n', "f.csv:2: column 'messages': a NUL character"),
    (b"text,text\na,b\n", "f.csv:1: a column name is repeated"),
    (b"text,,\na,,\nb,,c\n", "f.csv:3: column 3 has a cell but no name; name the column in the first line"),
    (b"text,,text,\na,,b,\n", "f.csv:1: a column name is repeated: 'text', 'text'"),
    (b"question\na\n", "f.csv:2: no format is known for the keys 'question'"),
    (b"text\n", "holds no rows"),
    (
        b'prompt,completion\na,b\n"c,d\ne,f\ng,h\n',
        "f.csv:3: this row opens a quote that is never closed",
    ),
    (b'prompt,completion\na,"b\nc,"d"\n', "f.csv:2: the row in lines 2 to 3 is not valid CSV: ',' expected after '\"'"),
    (b'prompt,completion\n"a"x,b\n', "f.csv:2: the row in line 2 is not valid CSV"),
    (
        b"prompt;comple|tion\na;b\n",
        "f.csv:1: the columns may be separated by semicolons or bars; say which in a line before this one",
    ),
    (b'"sep=\t"\n', "holds no rows"),
    (b"prompt;completion\na;b\nc\n", "f.csv:3: 1 cells, but the header names 2 columns"),
    (b"sep=,\nprompt;completion\na;b\n", "f.csv:3: no format is known for the keys 'prompt;completion'"),
    (b"\n\ntext,text\na,b\n", "f.csv:3: a column name is repeated"),
    (b"\nsep=,\nprompt,completion\na\n", "f.csv:4: 1 cells, but the header names 2 columns"),
    (b'\nprompt,completion\na,"b\nc,"d"\n', "f.csv:3: the row in lines 3 to 4 is not valid CSV"),
    (
        b"prompt,completion\ra,b\rc,d\r",
        "f.csv:1: the row in line 1 has a carriage return that is not a line end; quote",
    ),
    (b"prompt,completion\na,b\nc,d\re,f\n", "f.csv:3: the row in line 3 has a carriage return that is not a line end"),
    (b"text,caf\xe9\na,b\n", "f.csv:1: invalid UTF-8 (or a lone surrogate) at byte 3 of a column name (0xe9)"),
    ("text\ncafé\n".encode("latin-1"), "f.csv:2: invalid UTF-8 (or a lone surrogate) at byte 3 of text (0xe9); save"),
    (b"te\x1b[2Jxt,te\x1b[2Jxt\na,b\n", "a column name is repeated: 'te\\x1b[2Jxt'"),
    (b"", "holds no rows"),
]


@pytest.mark.scenario(number=24)
@pytest.mark.parametrize(("content", "reason"), BAD_CSV)
def test_bad_csv_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    assert reason in problem(tmp_path / "f.csv")
