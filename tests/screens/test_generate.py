"""Where a question comes from, and by which columns those of a file are read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from veneer.enums import Column
from veneer.errors import ConfigError, DataError
from veneer.screens.generate import columns_of_questions, read_question


def test_a_prompt_goes_before_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n from stdin \n"))
    assert read_question(" as it is ") == " as it is "
    assert read_question(None) == "from stdin"
    with pytest.raises(DataError, match="the prompt is empty"):
        read_question(None)


def test_columns_are_named_of_data_files_alone(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("where?\n")
    with pytest.raises(ConfigError, match=r"columns are named, but a text file has none"):
        columns_of_questions(tmp_path / "q.txt", {Column.PROMPT: "question"}, None)
    assert columns_of_questions(tmp_path / "q.txt", {}, None) == {}
