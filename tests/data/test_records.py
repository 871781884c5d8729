"""Whole files to records: bad rows by cause, notes, repeats."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.rows.row_files import ANSWER, USER, problem, write
from veneer.data.records import duplicates, overlap, read_file, read_records, read_rows
from veneer.enums import BadRows, Column
from veneer.errors import DataError


@pytest.mark.slow
def test_a_hundred_thousand_lines_with_one_percent_bad(tmp_path: Path) -> None:
    good, bad = json.dumps({"messages": [USER, ANSWER]}), json.dumps({"messages": [USER]})
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(bad if number % 100 == 0 else good for number in range(1, 100_001)))
    start = time.process_time()
    message = problem(path)
    assert "1000 of 100,000 rows cannot be used" in message
    assert message.count("no assistant turn") == 1
    assert f"(1,000 rows: {path}:100, {path}:200, {path}:300 and 997 more)" in message
    assert time.process_time() - start < 10


@pytest.mark.scenario(number=24)
def test_bad_rows_are_grouped_by_cause(tmp_path: Path) -> None:
    rows: list[object] = [{"messages": [{"role": f"bot{n}", "content": "x"}]} for n in range(5)]
    rows += [{"messages": [USER]}, {"text": "a"}, {"text": 5}, {"messages": [USER]}]
    path = write(tmp_path / "f.jsonl", *rows)
    with pytest.raises(DataError) as error:
        read_file(path, bad_rows=BadRows.REFUSE)
    lines = str(error.value).splitlines()
    assert problem(path).splitlines() == lines[:-1], "who reads all rows leaves none out"
    assert lines[0] == f"{path}: 8 of 9 rows cannot be used:"
    assert lines[1].startswith(f"  - {path}:1: messages[0] has the role 'bot0'; known: ")
    assert lines[2] == f"    (5 rows: {path}:1, {path}:2, {path}:3 and 2 more)"
    assert lines[3:5] == [
        f"  - {path}:6: there is no assistant turn, so there is nothing to train",
        f"    (2 rows: {path}:6, {path}:9)",
    ]
    assert lines[5:] == [
        f"  - {path}:8: text must be a string, not a number",
        "data.bad_rows: skip leaves such rows out",
    ]


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"text": 5}, {"text": "a", "id": 1}, {"text": 6})
    found = read_file(path, bad_rows=BadRows.SKIP)
    assert [record.text for record in found.records] == ["a"]
    assert [(one.where, one.reason) for one in found.skipped] == [
        (f"{path}:1", "text must be a string, not a number"),
        (f"{path}:3", "text must be a string, not a number"),
    ]
    assert "2 of 3 rows cannot be used and are left out" in found.notes[0]
    assert f"(2 rows: {path}:1, {path}:3)" in found.notes[0]
    assert found.notes[1] == f"{path}: these columns or keys are not used: 'id' (1 row)"
    with pytest.raises(DataError, match="1 of 1 row cannot be used"):
        read_file(write(tmp_path / "g.jsonl", {"text": 5}), bad_rows=BadRows.SKIP)


def test_a_classification_file_needs_its_columns_named(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("text,category\nHi,Yo\nHi,Yo\n")
    message = problem(path)
    assert "--columns of data, evaluate and generate): {prompt: text, completion: category}" in message
    assert "(2 rows: " in message
    assert "bad_rows" not in message  # no row would be left
    columns = {Column.PROMPT: "text", Column.COMPLETION: "category"}
    assert read_file(path, columns=columns).records[0].messages == (USER, ANSWER)


def test_control_characters_of_a_row_are_not_shown(tmp_path: Path) -> None:
    message = problem(write(tmp_path / "f.jsonl", {"\x1b[2J" * 500: 1}))
    assert "\x1b" not in message
    assert len(message) < 1000


def test_rows_are_given_as_the_file_has_them(tmp_path: Path) -> None:
    rows = [{"text": "a", "id": 1}, {"prompt": "Hi", "completion": "Yo"}]
    found = read_rows(write(tmp_path / "f.jsonl", *rows))
    assert [row for _, row in found] == rows
    assert [record.text for record, _ in found] == ["a", None]


@pytest.mark.slow
def test_two_hundred_thousand_short_rows_are_held_in_300_mb(tmp_path: Path) -> None:
    """On top of their text, in a process of its own."""
    row = {"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Forty two."}]}
    path = write(tmp_path / "f.jsonl", *[row] * 200_000)
    done = subprocess.run([sys.executable, "-c", HELD, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) - path.stat().st_size < 300e6


HELD = """
import resource, sys
from veneer.data.records import duplicates, overlap, read_file, read_records, read_rows
def peak():
    # Not ru_maxrss: it keeps what the process was that this one was started by.
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM'))
before = peak()
assert len(read_file(sys.argv[1]).records) == 200_000
print(peak() - before)
"""


@pytest.mark.scenario(number=25)
def test_duplicates_and_overlapping_rows_are_named_with_their_first_place(tmp_path: Path) -> None:
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
