from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from invoking import invoke, refused
from tiny import write_rows
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


def test_with_fix_a_mended_copy_is_written_and_the_file_stays(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*LABELLED, LABELLED[0]])
    before = file.read_bytes()
    result = invoke("data", file, "--fix", tmp_path / "new.jsonl")
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "new.jsonl").read_text().splitlines()) == 12
    assert file.read_bytes() == before


def test_options_of_a_check_are_refused_where_a_file_is_mended(tmp_path: Path) -> None:
    file, new = write_rows(tmp_path / "rows.jsonl", LABELLED), tmp_path / "new.jsonl"
    said = refused("data", file, "--fix", new, "--ignore", "duplicate", "--html", tmp_path / "page.html", "--json")
    assert "--ignore, --html would do nothing" in said
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", LABELLED)
    assert "no such rule" in refused("data", file, "--ignore", "duplcate")
    assert "did you mean 'duplicate'" in refused("data", file, "--ignore", "duplcate")
    assert "absent.jsonl" in refused("data", tmp_path / "absent.jsonl")
