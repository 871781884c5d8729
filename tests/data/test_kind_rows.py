"""Rows by the kind that an objective takes: each is read by the reader of its kind, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import NO_TEXT, Remarks, to_record
from veneer.data.forms.labels import to_labelled
from veneer.data.forms.preference import to_pair
from veneer.data.forms.prompts import to_prompt
from veneer.data.kind_rows import ROW_PARTS, numbered_rows, to_kind
from veneer.enums import Column, RowKind

ANSWER = {"prompt": "2 + 2?", "completion": "4"}
PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "margin": 2}
TEXT = {"text": "Two and two are four."}
ASKED = {"prompt": "2 + 2?", "reference": "4"}


def test_each_kind_is_read_as_its_own_reader_reads_it() -> None:
    labelled = ANSWER | {"label": False}
    assert to_kind(ANSWER, "f:1", RowKind.ANSWERS).records == (to_record(ANSWER, "f:1"),)
    assert to_kind(TEXT, "f:1", RowKind.TEXTS).records == (to_record(TEXT, "f:1"),)
    pair = to_kind(PAIR, "f:1", RowKind.PAIRS)
    assert (pair.records, pair.margin) == (to_pair(PAIR, "f:1").records, 2.0)
    found = to_kind(labelled, "f:1", RowKind.LABELLED)
    assert (found.records, found.desirable) == ((to_labelled(labelled, "f:1").record,), False)
    asked = to_kind(ASKED, "f:1", RowKind.PROMPTS)
    assert (asked.records, asked.prompt) == ((to_prompt(ASKED, "f:1").record,), to_prompt(ASKED, "f:1"))
    for kind, row in zip(RowKind, (ANSWER, PAIR, labelled, TEXT, ASKED), strict=True):
        assert len(to_kind(row, "f:1", kind).records) == len(ROW_PARTS[kind])


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        (ASKED, RowKind.ANSWERS, "there is a prompt but no completion"),
        (PAIR, RowKind.ANSWERS, "is for objectives like dpo; set objective: dpo"),
        (ANSWER | {"label": False}, RowKind.ANSWERS, "such rows are for objective: kto"),
        (ANSWER, RowKind.TEXTS, NO_TEXT),
        (ANSWER, RowKind.PAIRS, "no pair of answers is known"),
        (ANSWER, RowKind.LABELLED, "there must be one label"),
        (TEXT, RowKind.PROMPTS, "there is no prompt under"),
    ],
)
def test_a_row_of_another_kind_is_refused(row: dict[str, Any], kind: RowKind, said: str) -> None:
    with pytest.raises(BadRow) as error:
        to_kind(row, "f:1", kind)
    assert said in str(error.value)


def test_without_a_kind_the_keys_tell_pairs_from_answers() -> None:
    assert to_kind(PAIR, "f:1", None) == to_kind(PAIR, "f:1", RowKind.PAIRS)
    assert to_kind(ANSWER, "f:1", None) == to_kind(ANSWER, "f:1", RowKind.ANSWERS)
    assert to_kind(ANSWER | {"label": False}, "f:1", None).records == (to_record(ANSWER, "f:1"),)


def test_columns_are_mapped_and_remarks_kept_for_every_kind() -> None:
    remarks = Remarks()
    row = {"q": "2 + 2?", "a": "4", "b": "5", "id": 1}
    names = {Column.PROMPT: "q", Column.CHOSEN: "a", Column.REJECTED: "b"}
    assert to_kind(row, "f:1", RowKind.PAIRS, remarks, names).whole.messages[-1]["content"] == "5"
    assert remarks.unused == {"id": 1}


@pytest.mark.parametrize(
    ("kind", "more", "bad"),
    [
        (RowKind.ANSWERS, {}, {"a": ""}),
        (RowKind.LABELLED, {"l": True}, {"l": 3}),
        (RowKind.PAIRS, {"b": "5"}, {"b": "4"}),
    ],
)
def test_a_refused_row_counts_for_no_remark(kind: RowKind, more: dict[str, Any], bad: dict[str, Any]) -> None:
    remarks, row = Remarks(), {"q": "2 + 2?", "a": "4", "id": 1, **more}
    chosen = Column.CHOSEN if kind is RowKind.PAIRS else Column.COMPLETION
    names = {Column.PROMPT: "q", chosen: "a", Column.REJECTED: "b", Column.LABEL: "l"}
    to_kind(row, "f:1", kind, remarks, names)
    with pytest.raises(BadRow):
        to_kind(row | bad, "f:2", kind, remarks, names)
    assert remarks.unused == {"id": 1}


def test_the_whole_of_a_pair_has_both_answers() -> None:
    said = [turn["content"] for turn in to_kind(PAIR, "f:1", RowKind.PAIRS).whole.messages]
    assert said == ["2 + 2?", "4", "2 + 2?", "5"]


def test_rows_that_can_be_used_are_numbered_among_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n{{\n{{"prompt": "no text"}}\n')
    found = list(numbered_rows(str(tmp_path / "*.jsonl"), {}, RowKind.TEXTS))
    assert [(number, row.whole.text) for number, row in found] == [(0, "a"), (3, "b")]
