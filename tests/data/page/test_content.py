from __future__ import annotations

from pathlib import Path

import pytest

from helpers.rows.lint_rows import hostile_report, write
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.data.lint.view import rows_again, tokens_of
from veneer.data.page import content as page_content
from veneer.data.page.content import content
from veneer.enums import ObjectiveName


def test_every_row_has_its_own_tokens_and_targets(tmp_path: Path) -> None:
    """Ids, texts and spans of the page, put together again, are the tokens that train."""
    report = hostile_report(tmp_path)
    values = content(report)
    assert [row["where"] for row in values["rows"]] == [report.facts.where(row) for row in range(report.rows)]
    for number, row in rows_again(report, range(report.rows)):
        written, tokens = values["rows"][number], tokens_of(row, report.setting)
        if not tokens:
            assert written["strings"] == [list(pair) for pair in row.texts]
            continue
        assert written["ids"] == [token.id for token in tokens]
        texts = [
            written.get("odd", {}).get(place, values["texts"][index]) for place, index in enumerate(written["ids"])
        ]
        assert texts == [token.text for token in tokens]
        starts = [0, *(end for end, _, _ in written["spans"])]
        of_spans = [
            (bool(trained), values["fields"][field])
            for start, (end, trained, field) in zip(starts, written["spans"], strict=False)
            for _ in range(start, end)
        ]
        assert of_spans == [(token.trained, token.field) for token in tokens]


def test_a_frequent_token_that_has_no_text_of_its_own_is_called_by_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": f"{number}?", "completion": "東京"} for number in range(3)])
    values = content(lint(file, LintSetting(ct.tokenizer("chatml"))))
    assert "" in values["texts"].values()
    assert all(text for _, _, text in values["frequent"])


def test_findings_and_counts_are_those_of_the_report(tmp_path: Path) -> None:
    report = hostile_report(tmp_path)
    values = content(report)
    assert (values["checked"], values["clean"]) == (30, 27)
    said = {(values["rules"][rule]["name"], row["where"]) for row in values["rows"] for rule, _ in row["findings"]}
    assert said == {(found.rule.name, report.facts.where(row)) for found in report.found for row in found.rows}
    for histogram in values["histograms"]:
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert sum(histogram["counts"]) == int(report.facts.usable.sum())


def test_without_a_model_rows_are_shown_as_strings(tmp_path: Path) -> None:
    values = content(lint(hostile_report(tmp_path).files[0]))
    assert values["texts"] == {}
    assert values["rows"][0]["strings"] == [["prompt", "question 0"], ["completion", "answer 0"]]


def test_a_large_file_makes_a_page_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_content, "MOST_TOKENS", 400)
    monkeypatch.setattr(page_content, "MOST_CLEAN_ROWS", 5)
    report = hostile_report(tmp_path, count=200)
    values = content(report)
    written = [row for row in values["rows"] if "ids" in row or "strings" in row]
    assert len(written) == values["written"] < 15
    # Every row with a finding is listed, and those with errors come first where there is not room for all.
    assert {row["where"].rpartition(":")[2] for row in values["rows"] if row["findings"]} == {"4", "6", "8"}
    assert "ids" in next(row for row in values["rows"] if row["where"].endswith(":4"))


def test_clean_rows_take_no_room_from_those_with_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"{number} " + "x" * 80, "completion": "y"} for number in range(40)]
    rows[20] = {"prompt": "z" * 80, "completion": ""}
    report = lint(write(tmp_path / "rows.jsonl", rows))
    monkeypatch.setattr(page_content, "MOST_CLEAN_ROWS", 30)
    for room, clean in ((100_000, 19), (1_000, 11), (50, 0)):
        monkeypatch.setattr(page_content, "MOST_TOKENS", room)
        values = content(report)
        written = [row for row in values["rows"] if "strings" in row]
        assert [row["where"].rpartition(":")[2] for row in written if row["findings"]] == ["21"]
        assert len(written) == values["written"] <= clean + 1
        assert room != 1_000 or len(written) > 4


def test_prompts_are_written_with_their_tokens_and_nothing_that_trains(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": f"{number} + 2?"} for number in range(5)])
    values = content(lint(file, LintSetting(ct.tokenizer("chatml"), objective=ObjectiveName.GRPO)))
    assert (values["objective"], values["clean"]) == ("grpo", 5)
    assert values["lengths"]["unit"] == "tokens"
    assert [one["name"] for one in values["histograms"]] == ["tokens a row"]
    for number, row in enumerate(values["rows"]):
        assert f"{number} + 2?" in "".join(values["texts"][index] for index in row["ids"])
        assert row["targets"] == 0
        assert "prompt" in [values["fields"][field] for _, _, field in row["spans"]]
