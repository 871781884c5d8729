"""Pairs that contradict each other or differ by their length alone, and labels that hardly any row has."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from helpers.texts import chat_templates as ct
from veneer.data.forms.labels import read_label
from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting, read_rows
from veneer.data.lint.run import lint
from veneer.data.lint.view import END_OF_TURN_FIELD, tokens_of
from veneer.enums import Column


def report(
    tmp_path: Path, rows: list[dict[str, Any]], setting: LintSetting | None = None, held: Path | None = None
) -> LintReport:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lint(file, setting, eval_file=held)


def found(
    tmp_path: Path, rows: list[dict[str, Any]], setting: LintSetting | None = None, held: Path | None = None
) -> dict[str, list[int]]:
    """The lines of the rows that each rule holds for."""
    return {
        one["rule"]: [int(row["where"].rpartition(":")[2]) for row in one["rows"]]
        for one in report(tmp_path, rows, setting, held).to_json()["findings"]
    }


def pair(number: int, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": f"Question {number} of many?", "chosen": chosen, "rejected": rejected}


def test_a_pair_that_another_row_turns_round_is_found_and_an_equal_one_is_not(tmp_path: Path) -> None:
    rows = [pair(0, "Two kilos", "No idea"), pair(1, "Two kilos", "No idea"), pair(0, "no  IDEA", "two kilos"),
            pair(2, "Three", "Four"), pair(2, "Three", "Five")]  # fmt: skip
    assert found(tmp_path, rows)["swapped-pair"] == [1, 3]


def test_a_repeated_pair_of_answers_that_differ_by_case_alone_is_not_its_own_swap(tmp_path: Path) -> None:
    assert "swapped-pair" not in found(tmp_path, [pair(0, "Hello", "hello"), pair(0, "Hello", "hello")])


def test_contradictions_among_the_evaluation_rows_are_found(tmp_path: Path) -> None:
    held = tmp_path / "test.jsonl"
    labelled = [{"prompt": "Why?", "completion": "So.", "label": label} for label in (True, False)]
    rows = [pair(5, "Three", "Four"), pair(5, "Four", "Three"), *labelled]
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = found(tmp_path, [pair(0, "One", "Two"), pair(1, "Two", "One")], held=held)
    assert (lines["swapped-pair"], lines["both-labels"]) == ([1, 2], [3, 4])


def test_two_equal_answers_cannot_be_used(tmp_path: Path) -> None:
    rows = [pair(0, "Same", "Same"), pair(1, "One", "Other")]
    assert found(tmp_path, rows) == {"unusable-row": [1]}


def test_preferring_the_longer_answer_throughout_is_found(tmp_path: Path) -> None:
    rows = [pair(n, f"Answer {n} " + "that goes on " * (n % 5 + 3), f"No {n}") for n in range(30)]
    rows[7] = pair(7, "Short", "A rejected answer that is the longer one of both")
    lines = found(tmp_path, rows)["length-bias"]
    assert 8 not in lines
    assert len(lines) == 29
    alike = [pair(n, f"Answer {n} is right", f"Answer {n} is wrong" + "." * (n % 3)) for n in range(30)]
    assert "length-bias" not in found(tmp_path, alike)


def test_a_label_that_hardly_any_row_has_is_found(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n != 17} for n in range(40)]
    assert found(tmp_path, rows)["rare-label"] == [18]
    rows[3]["label"] = rows[5]["label"] = False
    assert "rare-label" not in found(tmp_path, rows)


@pytest.mark.parametrize("label", [True, 0, "False", "1.0"])
def test_labels_that_are_all_alike_are_found(label: object, tmp_path: Path) -> None:
    rows = [{"question": f"Question {n}?", "reply": f"Answer {n}.", "good": label} for n in range(16)]
    setting = LintSetting(columns={Column.PROMPT: "question", Column.COMPLETION: "reply", Column.LABEL: "good"})
    assert found(tmp_path, rows, setting)["one-label"] == list(range(1, 17))
    rows[3]["good"] = not read_label(label)
    assert "one-label" not in found(tmp_path, rows, setting)
    assert "one-label" not in found(tmp_path, rows)


def labelled(number: int, answer: str, label: object) -> dict[str, Any]:
    return {"prompt": f"Question {number} of many?", "completion": answer, "label": label}


def test_an_answer_that_is_labelled_both_ways_is_found_with_its_counts(tmp_path: Path) -> None:
    rows = [labelled(0, "Two kilos.", True), labelled(0, "No idea.", False), labelled(0, " Two kilos.\n", "0"),
            labelled(1, "Two kilos.", False), labelled(0, "Two kilos.", 1)]  # fmt: skip
    made = report(tmp_path, rows).to_json()["findings"]
    (both,) = [one for one in made if one["rule"] == "both-labels"]
    assert [row["where"].rpartition(":")[2] for row in both["rows"]] == ["1", "3", "5"]
    file = tmp_path / "rows.jsonl"
    (detail,) = {row["detail"] for row in both["rows"]}
    assert detail == f"label true on 2: {file}:1, {file}:5; label false on 1: {file}:3"
    assert both["severity"] == "error"
    assert found(tmp_path, rows) == {"both-labels": [1, 3, 5], "duplicate": [5]}, "and nothing contradicts more"


def test_labels_may_tell_case_layout_tools_and_earlier_turns_from_each_other(tmp_path: Path) -> None:
    rows = [labelled(0, "Two kilos.", True), labelled(0, "two  kilos.", False)]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    rows += [{"messages": turns, "label": True},
             {"messages": [{"role": "system", "content": "Be rude."}, *turns], "label": False}]  # fmt: skip
    assert found(tmp_path, rows).keys() == {"many-near-duplicates"}
    assert found(tmp_path, [*rows, {"messages": turns, "kto_tag": "false"}])["both-labels"] == [3, 5]


def test_rows_without_a_label_among_labelled_ones_are_found(tmp_path: Path) -> None:
    rows = [labelled(n, f"Answer {n}.", n % 2 == 0) for n in range(40)]
    rows[3]["label"], rows[7]["label"] = None, "maybe"
    del rows[11]["label"]
    rows[13] |= {"kto_tag": True}
    assert found(tmp_path, rows)["unlabelled"] == [4, 8, 12, 14], "what a run refuses: none, another word, two names"
    assert "unlabelled" not in found(tmp_path, [{**row, "label": n % 3} for n, row in enumerate(rows)])
    assert "unlabelled" not in found(tmp_path, [{k: v for k, v in row.items() if k == "prompt"} for row in rows])


def test_answers_labelled_both_ways_are_those_that_a_comparison_of_all_rows_finds(tmp_path: Path) -> None:
    source = random.Random(3)
    rows = [labelled(source.randrange(9), f"Answer {source.randrange(5)}", source.random() < 0.7) for _ in range(150)]
    slow = [at + 1 for at, row in enumerate(rows) if any({**row, "label": not row["label"]} == other for other in rows)]
    made = report(tmp_path, rows).to_json()["findings"]
    (both,) = [one for one in made if one["rule"] == "both-labels"]
    assert [int(row["where"].rpartition(":")[2]) for row in both["rows"]] == slow
    assert any(" more" in row["detail"] for row in both["rows"])
    assert all(len(row["detail"].split(",")) <= 10 for row in both["rows"]), "five rows of each label are named"


def test_mapped_columns_and_pairs(tmp_path: Path) -> None:
    rows = [{"question": "How heavy?", "reply": "Two kilos.", "good": label} for label in (True, False)]
    setting = LintSetting(columns={Column.PROMPT: "question", Column.COMPLETION: "reply", Column.LABEL: "good"})
    assert found(tmp_path, rows, setting) == {"both-labels": [1, 2]}
    assert "both-labels" not in found(tmp_path, [pair(0, "One", "Two") | {"label": n} for n in (0, 1)])


def test_repeated_pairs_are_those_with_both_answers_alike(tmp_path: Path) -> None:
    rows = [pair(0, "One", "Two"), pair(0, "One", "Three"), pair(0, "one", "TWO")]
    assert found(tmp_path, rows)["duplicate"] == [3]


def test_the_limit_of_length_holds_for_the_rejected_answer_too(tmp_path: Path) -> None:
    rows = [pair(0, "Fine", "Never"), pair(1, "word " * 90, "No"), pair(2, "Yes", "word " * 90)]
    made = report(tmp_path, rows, LintSetting(ct.tokenizer("chatml"), 60)).to_json()
    (over,) = [one for one in made["findings"] if one["rule"] == "overlong"]
    assert [row["where"].rpartition(":")[2] for row in over["rows"]] == ["2", "3"]


def test_what_trains_is_named_by_the_fields_of_the_pair(tmp_path: Path) -> None:
    setting = LintSetting(ct.tokenizer("chatml"))
    (row,) = read_rows([("f:1", pair(0, "A fine answer", "No"))], setting)
    trained = {token.field for token in tokens_of(row, setting) if token.trained}
    assert trained == {"chosen", END_OF_TURN_FIELD}
    assert "prompt" in {token.field for token in tokens_of(row, setting)}
    asked = [{"role": "user", "content": "Which?"}]
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    (row,) = read_rows([("f:1", {"prompt": asked, **answers})], setting)
    assert {"prompt[0].content", "chosen[0].content"} <= {token.field for token in tokens_of(row, setting)}
