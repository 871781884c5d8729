from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.support import needs
from veneer.data.files.in_memory import rows_file
from veneer.data.files.plain_json import NOT_JSON_KEY
from veneer.data.records import read_records
from veneer.errors import DataError, OutputError
from veneer.events import Event, ignore

ROWS = [{"prompt": "naïve 🎉?", "completion": "yes\nno"}, {"prompt": "b", "completion": "c", "weight": None}]


WITHIN: dict[str, Any] = {}
WITHIN["a"] = WITHIN


class Dataset:
    """What `datasets.Dataset` is to a reader: rows by iteration, each a fresh dictionary."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([dict(row) for row in ROWS])


@pytest.mark.parametrize("source", [ROWS, tuple(ROWS), iter(ROWS), Dataset()], ids=["list", "tuple", "iterator", "set"])
def test_rows_in_memory_are_read_as_from_a_file(source: Any, tmp_path: Path) -> None:
    file = rows_file(source, tmp_path / "run" / "data.jsonl", ignore)
    assert file == tmp_path / "run" / "data.jsonl"
    assert [record.messages[-1]["content"] for record in read_records(file)] == ["yes\nno", "c"]


def test_a_file_is_itself(tmp_path: Path) -> None:
    assert rows_file("rows.csv", tmp_path / "data.jsonl", ignore) == Path("rows.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_same_rows_stays_and_one_of_others_is_not_replaced(tmp_path: Path) -> None:
    file = rows_file(ROWS, tmp_path / "data.jsonl", ignore)
    before = file.stat().st_mtime_ns
    assert rows_file(ROWS, file, ignore).stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="contains other rows than those given"):
        rows_file(ROWS[:1], file, ignore)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no rows were given"), (["text"], "row 1 is of type str"),
     ([{("a", "b"): 1}], "row 1 cannot be written as JSON"),
     ([{"a": 1}, WITHIN], "row 2 cannot be written as JSON: it is nested too deeply or contains itself"),
     ([{"a": "b"}, {"a": ["c", "\ud83d"]}], r"row 2 cannot .*: a lone surrogate \(U\+D83D\) at character 0 of a\[1\]"),
     ([{"\ud83d": 1}], r"row 1 cannot .*: a lone surrogate \(U\+D83D\) at character 0 of a key")],
)  # fmt: skip
def test_what_is_no_row_is_refused(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        rows_file(rows, tmp_path / "data.jsonl", ignore)
    assert list(tmp_path.iterdir()) == []


def test_nan_in_a_column_that_nobody_uses_refuses_no_row(tmp_path: Path) -> None:
    """`to_dict("records")` of pandas has it for every value that is missing."""
    row = {"prompt": "a", "completion": "b", "id": np.int64(7), "score": float("nan")}
    events: list[Event] = []
    file = rows_file([ROWS[0], row], tmp_path / "data.jsonl", events.append)
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[1]) == {
        **row,
        "id": 7,
        "score": {NOT_JSON_KEY: "nan"},
    }
    assert len(read_records(file)) == 2
    assert "1 row with a value that JSON cannot express, such as NaN (first: row 2)" in str(events)


def test_a_frame_is_refused_with_what_makes_rows_of_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    with pytest.raises(DataError, match=r'rows are dictionaries; give frame\.to_dict\("records"\)'):
        rows_file(frame, tmp_path / "data.jsonl", ignore)
    assert len(read_records(rows_file(frame.to_dict("records"), tmp_path / "data.jsonl", ignore))) == 2


def test_rows_are_written_as_they_come_and_held_no_longer(tmp_path: Path) -> None:
    rows = ({"text": f"{number} " + "x" * 1000} for number in range(20_000))
    tracemalloc.start()
    file = rows_file(rows, tmp_path / "data.jsonl", ignore)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.stat().st_size > 20e6
    assert peak < 3e6
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_while_rows_are_read_is_theirs_and_leaves_no_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield ROWS[0]
        raise ConnectionResetError("the line is cut")

    with pytest.raises(DataError, match="the given rows cannot be read: the line is cut"):
        rows_file(rows(), tmp_path / "data.jsonl", ignore)
    assert list(tmp_path.iterdir()) == []


@needs("datasets", "datasets is not installed")
@pytest.mark.parametrize("form", ["arrow", "pandas", "numpy"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_format_of_a_data_set_changes_no_row(form: str, stream: bool, tmp_path: Path) -> None:
    import datasets

    plain = datasets.Dataset.from_list([{"messages": [{"role": "user", "content": "a"}], "n": n} for n in (1, 2)])
    wanted = rows_file(plain, tmp_path / "plain.jsonl", ignore).read_bytes()
    source = plain.to_iterable_dataset() if stream else plain
    assert rows_file(source.with_format(form), tmp_path / "data.jsonl", ignore).read_bytes() == wanted
    if not stream:
        some = rows_file(plain.with_format(form, columns=["n"]), tmp_path / "some.jsonl", ignore)
        assert [json.loads(line) for line in some.read_text().splitlines()] == [{"n": 1}, {"n": 2}]
        own = plain.with_transform(lambda batch: {"text": [str(n) for n in batch["n"]]})
        assert rows_file(own, tmp_path / "own.jsonl", ignore).read_text().splitlines() == [
            '{"text": "1"}',
            '{"text": "2"}',
        ]


@needs("datasets", "datasets is not installed")
def test_nulls_that_arrow_fills_in_are_absent_as_in_parquet(tmp_path: Path) -> None:
    import datasets

    given = [_calling(name, key) for name, key in (("f", "x"), ("g", "y"))]
    events: list[Event] = []
    file = rows_file(datasets.Dataset.from_list(given), tmp_path / "data.jsonl", events.append)
    assert [json.loads(line) for line in file.read_text().splitlines()] == given
    assert "the given rows: 2 rows have nulls inside their objects" in str(events)


def _calling(name: str, key: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": {key: "1"}}}
    tool = {"name": name, "parameters": {"properties": {key: {"type": "string"}}}}
    return {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        "tools": [tool],
    }
