"""Questions of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import rows, write_rows
from veneer.assistant.prompts import turns
from veneer.assistant.questions import FileQuestion, read_questions
from veneer.enums import Column
from veneer.errors import DataError


def test_a_text_file_has_a_question_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffa\r\nb b\u2028c\n\n \n d".encode())
    assert [one.text for one in read_questions(path, None)] == ["a", "b b\u2028c", " d"]
    assert read_questions(path, "s")[2] == FileQuestion(" d", turns("s", " d"))
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no question"):
        read_questions(path, None)
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match=r"q\.txt is compressed by gzip"):
        read_questions(path, None)


def test_a_pipe_gives_all_its_lines() -> None:
    lines = [f"question number {number} of many" for number in range(400)]
    reader, writer = os.pipe()
    with open(writer, "wb") as given:
        given.write("\n".join(lines).encode())
    try:
        assert [one.text for one in read_questions(Path(f"/dev/fd/{reader}"), None)] == lines
    finally:
        os.close(reader)


def test_the_rows_of_a_data_file_are_asked_and_not_their_json(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(3))
    for question, row in zip(read_questions(data, "be brief"), rows(3), strict=True):
        before = row["messages"][:-1]
        assert question.text == before[-1]["content"]
        assert question.messages == (
            before if before[0]["role"] == "system" else [{"role": "system", "content": "be brief"}, *before]
        )
    assert read_questions(data, None)[0].messages == rows(3)[0]["messages"][:-1]
    assert read_questions(data.rename(tmp_path / "ROWS.JSONL"), None)[0].messages == rows(3)[0]["messages"][:-1]


def test_rows_that_ask_nothing_are_named(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows(2), {"text": "plain"}])
    with pytest.raises(DataError, match=f"1 row cannot be asked as questions(.|\n)*{data}:3: "):
        read_questions(data, None)


def test_columns_of_other_names_are_asked_with_and_without_an_answer(tmp_path: Path) -> None:
    columns = {Column.PROMPT: "question", Column.COMPLETION: "answer"}
    for name, content in (("a.csv", "question,answer\nwhere?,here\n"), ("b.csv", "id,question\n1,where?\n")):
        (tmp_path / name).write_text(content)
        found = read_questions(tmp_path / name, None, columns)
        assert found == [FileQuestion("where?", turns(None, "where?"))]
    with pytest.raises(DataError, match=r"if 'answer' is the answer to 'question', set .*--columns of .*generate"):
        read_questions(tmp_path / "a.csv", None)


def test_rows_name_adapters_by_a_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "adapter": "red"}\n{"prompt": "b"}\n{"prompt": "c", "adapter": ""}\n')
    for file in (path, Path(shutil.copy(path, tmp_path / "UPPER.JSONL"))):
        assert [one.adapter for one in read_questions(file, None)] == ["red", None, None]
    path.write_text('{"prompt": "a", "adapter": 5}\n')
    with pytest.raises(DataError, match="must be a name, not 5"):
        read_questions(path, None)


def test_a_column_that_is_no_json_under_its_own_name_hides_no_adapter(tmp_path: Path) -> None:
    """Cells of `messages` hold JSON by themselves, and are texts where another column is mapped."""
    path = tmp_path / "rows.csv"
    path.write_text("about,messages,adapter\nwhere?,three of them,red\n")
    (question,) = read_questions(path, None, {Column.PROMPT: "about", Column.COMPLETION: "messages"})
    assert (question.text, question.adapter) == ("where?", "red")


def test_rows_that_cannot_be_read_keep_their_place_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "a"}\n{"r": "a"}\n[]\n{\n')
    with pytest.raises(DataError) as error:
        read_questions(path, None, {Column.PROMPT: "q"})
    message = str(error.value)
    assert "3 of 4 rows cannot be used" in message
    for line, reason in ((2, "the row has no 'q', which"), (3, "a row must be an object"), (4, "invalid JSON: Expect")):
        assert f"{path}:{line}: {reason}" in message


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.tsv.gz", "ROWS.NDJSON", "rows.jsonl.gz"])
def test_a_file_of_another_ending_is_not_asked_as_it_stands(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(
        DataError, match=rf"{name} ends in '{path.suffix}'; veneer asks the rows of .* the lines of .txt"
    ):
        read_questions(path, None)
    assert read_questions(path.rename(tmp_path / "rows"), None)[0].text == '{"prompt": "a"}', "no ending is a text"


@pytest.mark.parametrize("name", ["-", "folder"])
def test_what_is_no_file_is_refused_with_what_to_give(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(DataError, match=f"^{name}: cannot be read: .*; give a data file, or a text file"):
        read_questions(Path(name), None)
