"""A file of answers: whatever a kill leaves of it, it goes on after its last whole line, and with its own job alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from veneer.answering.answers_file import AnswersFile, prove_answers_file
from veneer.errors import ConfigError, DataError, OutputError

JOB = {"base": "a", "sampling": {"seed": 1}}
LINES = [{"row": row, "answer": "é" * row} for row in range(4)]


def written(path: Path, count: int = 4) -> bytes:
    with AnswersFile(path, JOB) as file:
        for line in LINES[file.done : count]:
            file.append(line)
    return path.read_bytes()


def test_a_file_that_was_cut_anywhere_becomes_the_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = written(path)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with AnswersFile(path, JOB) as file:
            assert file.done == whole[:length].count(b"\n")
        assert written(path) == whole


def test_another_job_does_not_go_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    written(path, 2)
    with pytest.raises(ConfigError, match=r"sampling\.seed: 1, now 2"):
        AnswersFile(path, {**JOB, "sampling": {"seed": 2}})
    with pytest.raises(ConfigError, match="adapters: None, now 'x'"):
        AnswersFile(path, {**JOB, "adapters": "x"})
    assert path.read_bytes().count(b"\n") == 2


def test_what_a_job_without_an_answer_has_left_is_no_other_job(tmp_path: Path) -> None:
    path, other = tmp_path / "answers.jsonl", {**JOB, "sampling": {"seed": 2}}
    with AnswersFile(path, other):
        pass
    assert written(path, 2).count(b"\n") == 2
    with pytest.raises(ConfigError, match=r"sampling\.seed: 1, now 2"):
        AnswersFile(path, other)
    path.unlink()
    with AnswersFile(path, other) as file:  # whoever deletes the answers begins anew
        with pytest.raises(OutputError, match="another process"):
            AnswersFile(path, JOB)
        file.append(LINES[0])
    with AnswersFile(path, other) as file:
        assert file.done == 1


def test_what_is_no_file_of_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match=r"without notes\.txt\.job next to it"):
        AnswersFile(path, JOB)
    assert path.read_text() == "mine\n"
    path.unlink()
    written(path, 1)
    path.write_text('{"row": 0}\n{"row": 2}\n')
    with pytest.raises(DataError, match="line 2: is not the answer to row 1"):
        AnswersFile(path, JOB)
    (tmp_path / "notes.txt.job").write_text("{")
    with pytest.raises(DataError, match=r"notes\.txt\.job: cannot be read"):
        AnswersFile(path, JOB)


def test_two_processes_do_not_write_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path, JOB) as file:
        with pytest.raises(OutputError, match="another process"):
            AnswersFile(path, JOB)
        file.append(LINES[0])
    assert path.read_bytes().count(b"\n") == 1


def test_what_is_no_file_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    pipe, folder, link = tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to("/dev/null")
    for path in (pipe, folder, link):
        with pytest.raises(OutputError, match="is not a file"):
            AnswersFile(path, JOB)
    assert sorted(tmp_path.iterdir()) == [folder, link, pipe]


def test_what_cannot_be_written_is_found_before_there_are_answers(tmp_path: Path) -> None:
    prove_answers_file(tmp_path / "answers.jsonl")
    for path in (tmp_path / "absent" / "answers.jsonl", tmp_path / ("long" * 62)):
        with pytest.raises(OutputError, match="cannot be written"):
            prove_answers_file(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        AnswersFile(tmp_path / "no" / "answers.jsonl", JOB)
