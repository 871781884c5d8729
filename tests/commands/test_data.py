from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.models.tiny import CommandLine, write_rows
from helpers.processes.invoking import invoke, refused
from veneer.cli import main

LABELLED = [{"prompt": f"question number {i}", "completion": "yes" if i % 2 else "no"} for i in range(12)]


@pytest.mark.parametrize(
    ("row", "code"),
    [(None, 0), (LABELLED[2], 0), ({"prompt": "question number 2", "completion": "yes"}, 1)],
    ids=["clean", "warning", "error"],
)
def test_the_exit_code_says_whether_there_are_errors(row: dict[str, str] | None, code: int, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*LABELLED, *([row] if row else [])])
    result = CliRunner().invoke(main, ["data", str(file), "--json"])
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert found["rows"] == 12 + bool(row)
    assert bool(found["findings"]) is bool(row)


def test_files_with_other_names_of_columns_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,category\n" + "".join(f"question {i},{'ab'[i % 2]}\n" for i in range(9)) + "question 0,b\n")
    result = CliRunner().invoke(
        main, ["data", str(file), "--json", "--columns", "{prompt: text, completion: category}"]
    )
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["rule"], finding["count"]) == ("conflicting-labels", 2)
    refused = CliRunner().invoke(main, ["data", str(file), "--columns", "{question: text}"])
    assert refused.exit_code == 2
    assert "data.columns" in refused.stderr
    broken = CliRunner().invoke(main, ["data", str(file), "--columns", "[1"])
    assert "--columns '[1': not valid YAML" in broken.stderr
    assert "--set" not in broken.stderr


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_never_takes_the_place_of_rows_and_does_that_of_an_earlier_page(which: int, tmp_path: Path) -> None:
    files = [write_rows(tmp_path / name, LABELLED) for name in ("rows.jsonl", "eval.jsonl")]
    before, command = files[which].read_bytes(), ("data", files[0], "--eval-data", files[1], "--html")
    assert "already exists and is not a page of veneer" in refused(*command, files[which])
    assert files[which].read_bytes() == before
    for _ in range(2):
        invoke(*command, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_with_fix_and_json_the_last_line_counts_where_nothing_changes_too(tmp_path: Path) -> None:
    row = {"prompt": "where?", "completion": "there"}
    file, new = write_rows(tmp_path / "a.jsonl", [row, row]), tmp_path / "new.jsonl"
    change, last = map(json.loads, invoke("data", file, "--fix", new, "--json").stdout.splitlines())
    assert change["where"] == f"{file}:2"
    assert last == {"output": str(new), "rows": 1, "left_out": 1, "changes": 1, "unreadable": 0}
    (only,) = map(json.loads, invoke("data", new, "--fix", tmp_path / "newer.jsonl", "--json").stdout.splitlines())
    assert (only["rows"], only["changes"]) == (1, 0)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_with_fix_the_copy_is_whole_though_nobody_reads_the_changes(
    more: list[str], command_line: CommandLine, tmp_path: Path
) -> None:
    file, new = write_rows(tmp_path / "a.jsonl", [LABELLED[0]] * 300), tmp_path / "new.jsonl"
    assert command_line.run("data", str(file), "--fix", str(new), *more, screen="/dev/full").code == 0
    assert len(new.read_text().splitlines()) == 1


def test_with_fix_a_mended_copy_is_written_and_the_file_stays(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*LABELLED, LABELLED[0]])
    before = file.read_bytes()
    result = invoke("data", file, "--fix", tmp_path / "new.jsonl")
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "new.jsonl").read_text().splitlines()) == 12
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "rows.jsonl",
            b'{"text": "a"},\n{"text": "b"}\n',
            "rows.jsonl cannot be read (`veneer data` shows the reasons)",
        ),
        ("rows.csv", b"text\ncaf\xe9\n\xe9\nb\n", "warning: 2 rows of "),
    ],
)
def test_rows_that_cannot_be_mended_are_counted_and_fail_the_command(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(main, ["data", str(tmp_path / name), "--fix", str(tmp_path / "new.jsonl")])
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())
    assert '{"text": "b"}' in (tmp_path / "new.jsonl").read_text()


def test_what_is_mended_of_joined_files_and_of_parquet_is_told(tmp_path: Path) -> None:
    """A byte-order mark in front of a later line, or alone in one, and values that JSON has not: no traceback."""
    row, mark = b'{"text": "a"}\n', "\ufeff".encode()
    (tmp_path / "joined.jsonl").write_bytes(row + mark + b'{"text": "b"}\n')
    (tmp_path / "alone.jsonl").write_bytes(row + mark + b"\n")
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    writer.write_table(arrow.table({"text": ["a"], "day": [date(2024, 2, 29)]}), tmp_path / "dated.parquet")
    writer.write_table(arrow.table({"text": ["a"], "image": [b"\xff"]}), tmp_path / "image.parquet")
    for name, rows, left_out in (("joined.jsonl", 2, 0), ("alone.jsonl", 1, 1), ("dated.parquet", 1, 0)):
        lines = invoke("data", tmp_path / name, "--fix", tmp_path / f"new-{name}.jsonl", "--json").stdout.splitlines()
        *changes, last = map(json.loads, lines)
        assert len(changes) == last["changes"] == 1
        assert (last["rows"], last["left_out"]) == (rows, left_out)
    said = refused("data", tmp_path / "image.parquet", "--fix", tmp_path / "new.jsonl")
    assert "image.parquet:1: image contains 1 byte that" in " ".join(said.split())


def test_options_of_a_check_are_refused_where_a_file_is_mended(tmp_path: Path) -> None:
    file, new = write_rows(tmp_path / "rows.jsonl", LABELLED), tmp_path / "new.jsonl"
    said = refused("data", file, "--fix", new, "--ignore", "duplicate", "--html", tmp_path / "page.html", "--json")
    assert "leave out --ignore, --html" in said
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", LABELLED)
    assert "no such rule" in refused("data", file, "--ignore", "duplcate")
    assert "did you mean 'duplicate'" in refused("data", file, "--ignore", "duplcate")
    assert "absent.jsonl" in refused("data", tmp_path / "absent.jsonl")


def test_a_page_that_cannot_be_written_is_refused_before_a_row_is_checked(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    said = refused("data", file, "--html", tmp_path / "absent" / "page.html")
    assert f"{tmp_path}/absent/page.html: cannot be written" in said
    assert f"there is no folder {tmp_path}/absent" in said
    assert "checking" not in said


def test_prompts_are_checked_for_the_objective_that_takes_them(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"question": f"{i} + 2?", "answer": f"{i + 2}"} for i in range(9)])
    names = ("--columns", "{prompt: question}")
    plain = CliRunner().invoke(main, ["data", str(file), "--columns", "{prompt: question}", "--json"])
    assert plain.exit_code == 1
    found = json.loads(plain.stdout)
    assert found["objective"] is None
    assert "--objective grpo" in found["findings"][0]["remedy"]
    asked = json.loads(invoke("data", file, "--objective", "grpo", *names, "--json").stdout)
    assert (asked["objective"], asked["findings"], asked["rows"]) == ("grpo", [], 9)
    unmapped = CliRunner().invoke(main, ["data", str(file), "--objective", "grpo", "--json"])
    assert unmapped.exit_code == 1
    (finding,) = json.loads(unmapped.stdout)["findings"]
    assert "there is no prompt under prompt | messages" in finding["rows"][0]["detail"]


@pytest.mark.parametrize(
    ("objective", "row", "said"),
    [
        ("dpo", {"prompt": "a", "chosen": "b"}, "there is chosen but no rejected"),
        ("reward", LABELLED[0], "no pair of answers is known"),
        ("kto", LABELLED[0], "there must be one label, true or false"),
        ("pretraining", LABELLED[0], "this is not a plain text"),
        (
            "sft",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "is for objectives like dpo; set objective: dpo",
        ),
        ("distillation", {"prompt": "a", "completion": "b", "kto_tag": "false"}, "such rows are for objective: kto"),
        ("distillation", {"prompt": "a"}, "there is a prompt but no completion"),
        ("grpo", {"text": "a"}, "there is no prompt"),
    ],
)
def test_what_a_run_would_refuse_is_an_error_in_its_words(
    objective: str, row: dict[str, str], said: str, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row])
    result = CliRunner().invoke(main, ["data", str(file), "--objective", objective, "--json"])
    assert result.exit_code == 1
    assert said in json.loads(result.stdout)["findings"][0]["rows"][0]["detail"]


def test_objectives_that_are_none_and_judges_of_answers_to_prompts_are_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    assert "'gpro' is not one of" in refused("data", file, "--objective", "gpro")
    said = refused("data", file, "--objective", "grpo", "--model", "none", "--label-errors")
    assert "rows of objective grpo are prompts without answers" in said
    assert "leave out --objective" in refused("data", file, "--fix", tmp_path / "new", "--objective", "grpo")
