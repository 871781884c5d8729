"""Where questions come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from veneer.errors import DataError
from veneer.screens.generate import read_question, read_questions


def test_a_prompt_goes_before_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n from stdin \n"))
    assert read_question(" as it is ") == " as it is "
    assert read_question(None) == "from stdin"
    with pytest.raises(DataError, match="the prompt is empty"):
        read_question(None)


def test_a_file_has_a_question_on_each_line(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a\n\nb b\n")
    assert read_questions(tmp_path / "q.txt") == ["a", "b b"]
    (tmp_path / "q.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no question"):
        read_questions(tmp_path / "q.txt")
