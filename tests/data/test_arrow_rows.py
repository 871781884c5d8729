"""What Arrow's tables hold that Python's rows cannot: names that repeat, dates beyond Python's."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veneer.data.records import read_records
from veneer.errors import DataError


def problem(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_records(path)
    return str(error.value)


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
    assert f"{path}: column 'when' holds what cannot be read (" in problem(path)
    assert "Save the column as text, or leave it out" in problem(path)
