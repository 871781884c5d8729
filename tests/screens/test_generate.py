"""Where questions come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tiny import rows, write_rows
from veneer.enums import Column
from veneer.errors import ConfigError, DataError
from veneer.screens.generate import columns_of_questions, read_conversations, read_question, read_questions


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
    (tmp_path / "q.txt").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match=r"q\.txt is compressed by gzip"):
        read_questions(tmp_path / "q.txt")


def test_the_rows_of_a_data_file_are_asked_and_not_their_json(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(3))
    for (question, turns), row in zip(read_conversations(data, "be brief"), rows(3), strict=True):
        before = row["messages"][:-1]
        assert question == before[-1]["content"]
        assert turns == (
            before if before[0]["role"] == "system" else [{"role": "system", "content": "be brief"}, *before]
        )
    assert read_conversations(data, None)[0][1] == rows(3)[0]["messages"][:-1]
    assert read_conversations(data.rename(tmp_path / "ROWS.JSONL"), None)[0][1] == rows(3)[0]["messages"][:-1]


def test_rows_that_ask_nothing_are_named(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows(2), {"text": "plain"}])
    with pytest.raises(DataError, match=f"1 row cannot be asked as questions(.|\n)*{data}:3: "):
        read_conversations(data, None)


def test_a_text_file_is_asked_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a\nb\n")
    system = {"role": "system", "content": "s"}
    assert read_conversations(tmp_path / "q.txt", "s") == [
        ("a", [system, {"role": "user", "content": "a"}]), ("b", [system, {"role": "user", "content": "b"}]),
    ]  # fmt: skip


def test_columns_of_other_names_are_asked_with_and_without_an_answer(tmp_path: Path) -> None:
    columns = {Column.PROMPT: "question", Column.COMPLETION: "answer"}
    for name, content in (("a.csv", "question,answer\nwhere?,here\n"), ("b.csv", "id,question\n1,where?\n")):
        (tmp_path / name).write_text(content)
        found = read_conversations(tmp_path / name, None, columns)
        assert found == [("where?", [{"role": "user", "content": "where?"}])]
    with pytest.raises(DataError, match=r"if 'answer' is the answer to 'question', set .*--columns of .*generate"):
        read_conversations(tmp_path / "a.csv", None)
    (tmp_path / "q.txt").write_text("where?\n")
    with pytest.raises(ConfigError, match=r"columns are named, and a text file has none"):
        columns_of_questions(tmp_path / "q.txt", columns, None)
    assert columns_of_questions(tmp_path / "q.txt", {}, None) == {}
