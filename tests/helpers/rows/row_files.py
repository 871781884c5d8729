"""Files of rows, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from veneer.data.forms.record import Record
from veneer.data.records import read_records
from veneer.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


def write(path: Path, *rows: object) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_row(tmp_path: Path, row: object) -> Record:
    (record,) = read_records(write(tmp_path / "f.jsonl", row))
    return record


def problem(path: Path) -> str:
    """What is said of a file that cannot be used."""
    with pytest.raises(DataError) as error:
        read_records(path)
    return str(error.value)
