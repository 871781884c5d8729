"""What Arrow's tables hold that Python's rows cannot (names that repeat, dates beyond Python's), and maps."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.rows.row_files import ANSWER, USER, problem
from veneer.data.files.readers import iterate_rows
from veneer.data.records import read_file, read_records


def test_names_that_parquet_repeats_are_refused(tmp_path: Path) -> None:
    """Of two columns of one name the last would be read, in silence."""
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    assert "f.parquet: a column name is repeated: 'text'; give each a name of its own" in problem(path)
    twice = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["role", "role"])
    turns = pa.ListArray.from_arrays(pa.array([0, 1]), twice)
    pq.write_table(pa.table({"messages": turns}), path)
    assert "f.parquet: a field of column 'messages." in problem(path)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([10**15], pa.timestamp("s")),
        pa.array([2147483647], pa.date32()),
        pa.array([[2147483647]], pa.list_(pa.date32())),
        pa.array([5], pa.timestamp("ms", tz="Mars/Phobos")),
    ],
)
def test_a_date_that_python_has_not_is_refused_with_its_column(times: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"text": ["a"], "when": times}), path)
    assert f"{path}: column 'when' contains a value that cannot be read (" in problem(path)
    assert "Save the column as text, or leave it out" in problem(path)


TEXTS = pa.map_(pa.string(), pa.string())


def test_maps_are_objects_wherever_they_stand(tmp_path: Path) -> None:
    """pyarrow gives them as lists of pairs, which chat templates would write as such."""
    path = tmp_path / "f.parquet"
    call = pa.struct({"function": pa.struct({"name": pa.string(), "arguments": TEXTS})})
    turn = pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": pa.list_(call)})
    given = {"function": {"name": "get", "arguments": [("city", "Berlin"), ("unit", None)]}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [given]}]
    rows = {
        "messages": pa.array([turns], pa.list_(turn)),
        "spark": pa.array([[[("role", "user")]]], pa.list_(TEXTS)),
        "numbers": pa.array([[(1, [("a", "b")])]], pa.map_(pa.int64(), TEXTS)),
        "none": pa.array([None], TEXTS),
    }
    pq.write_table(pa.table(rows), path)
    [(_, row)] = iterate_rows(path)
    assert row["messages"][1]["tool_calls"] == [{"function": {"name": "get", "arguments": {"city": "Berlin"}}}]
    assert row["spark"] == [{"role": "user"}]
    assert row["numbers"] == {"1": {"a": "b"}}
    assert "none" not in row


def test_a_key_that_stands_twice_in_a_map_is_refused_with_its_column(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"text": ["a"], "more": pa.array([[("k", "1"), ("k", "2")]], TEXTS)}), path)
    assert "f.parquet: column 'more': the key 'k' is twice in an object, with '1' and '2'" in problem(path)


def test_the_nulls_that_parquet_fills_in_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    calls = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {key: 1}}]} for key in "ab"]
    pq.write_table(pa.Table.from_pylist([{"messages": [USER, *calls]}, {"messages": [USER, ANSWER]}]), path)
    first, second = read_records(path)
    # Parquet fills the columns of a struct with nulls: neither call had the other's argument.
    assert [message["tool_calls"][0]["arguments"] for message in first.messages[1:]] == [{"a": 1}, {"b": 1}]
    assert (second.messages, second.where) == ((USER, ANSWER), f"{path}:2")


def test_parquet_notes_that_null_and_absent_are_one(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    rows = [{"messages": [USER, {**ANSWER, "name": "x"}], "id": 1}, {"messages": [USER, ANSWER], "id": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    notes: list[str] = []
    assert len(list(iterate_rows(path, notes))) == 2
    (note,) = notes
    assert "2 rows have nulls inside their objects" in note
    assert any("2 rows have nulls" in line for line in read_file(path).notes)
    pq.write_table(pa.Table.from_pylist([{"messages": [USER, ANSWER], "id": None}]), path)
    assert not any("null" in line for line in read_file(path).notes)  # a null column counts as absent in every format


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'veneer[parquet]'" in problem(tmp_path / "f.parquet")


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1nothing")
    assert "invalid Parquet after row 0" in problem(tmp_path / "f.parquet")
