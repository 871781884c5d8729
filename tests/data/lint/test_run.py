from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import chat_templates as ct
from tiny import write_rows
from veneer.data.lint import run
from veneer.data.lint.run import LintOptions, lint
from veneer.errors import ConfigError, DataError
from veneer.events import Event, StageBegun, StageEnded


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count: int) -> list[dict[str, str]]:
    made = [
        {"prompt": f"How much is {i} and {i * 7 % 1000}?", "completion": f"It is {i + i * 7 % 1000}."}
        for i in range(count)
    ]
    made[count // 2] = made[1]
    made[count - 2] = {"prompt": "x", "completion": "\u200b"}
    return made


def test_several_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ALONE", 2 * run.CHUNK)
    file = write(tmp_path / "rows.jsonl", rows(900))
    alone, shared = (
        lint(file, tokenizer=ct.tokenizer("chatml"), eval_file=file, options=LintOptions(processes=count))
        for count in (1, 2)
    )
    first, second = alone.to_json(), shared.to_json()
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert alone.rows == 1800
    assert {found.rule.name for found in alone.found} >= {"duplicate", "empty-turn", "leaked-row"}


def test_stages_are_told(tmp_path: Path) -> None:
    events: list[Event] = []
    lint(write(tmp_path / "rows.jsonl", rows(20)), subscribers=[events.append])
    begun = [event for event in events if isinstance(event, StageBegun)]
    assert [event.total for event in begun] == [20, 6]
    assert sum(isinstance(event, StageEnded) for event in events) == 2


def test_other_formats_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nHello,Hi\nHello again,Hi\nHello,Hi\n")
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "One"}, {"text": "one"}, 5]))
    found = lint(tmp_path / "rows.csv").to_json()["findings"]
    assert [(one["rule"], [row["where"] for row in one["rows"]]) for one in found] == [
        ("duplicate", [f"{tmp_path}/rows.csv:4"])
    ]
    assert [one["rule"] for one in lint(tmp_path / "rows.json").to_json()["findings"]] == ["unusable-row", "duplicate"]


def test_rules_can_be_ignored_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", rows(20))
    assert not lint(file, options=LintOptions(ignore=frozenset({"empty-turn", "duplicate"}))).found
    with pytest.raises(ConfigError, match="did you mean 'duplicate'"):
        lint(file, options=LintOptions(ignore=frozenset({"duplicates"})))


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        lint(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no rows"):
        lint(write(tmp_path / "empty.jsonl", []))


def test_several_files_are_one_and_rows_are_named_by_theirs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    one = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(5)]
    write_rows(tmp_path / "in" / "a.jsonl", one)
    write_rows(tmp_path / "in" / "b.jsonl", [{"broken": 1}, one[3]])
    write_rows(tmp_path / "out" / "c.jsonl", [one[0]])
    write_rows(tmp_path / "out" / "d.jsonl", [one[4], {"text": "a \ufffd"}])
    report = lint(tmp_path / "in" / "*.jsonl", eval_file=tmp_path / "out" / "*.jsonl")
    places = {found.rule.name: [report.facts.where(row) for row in found.rows] for found in report.found}
    assert places["duplicate"] == [f"{tmp_path / 'in' / 'b.jsonl'}:2"]
    assert places["unusable-row"] == [f"{tmp_path / 'in' / 'b.jsonl'}:1"]
    assert places["leaked-row"] == [f"{tmp_path / 'out' / 'c.jsonl'}:1", f"{tmp_path / 'out' / 'd.jsonl'}:1"]
    assert places["damaged-encoding"] == [f"{tmp_path / 'out' / 'd.jsonl'}:2"]
    assert report.rows == 10
