"""Runs refuse what their `data.checks` name, and say the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import write_rows
from helpers.texts import chat_templates as ct
from veneer.config import DataSection
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.forms.record import Record
from veneer.data.lint import audit
from veneer.data.lint.audit import RowAudit
from veneer.data.lint.registry import ROW_CHECKS, RULES
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Finding, RowCheck
from veneer.data.rows import Rows, load_rows
from veneer.enums import Check
from veneer.errors import DataError
from veneer.events import Event, Note

CLEAN = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(4)]
THOUGHT = {
    "messages": [
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Think of it."},
    ]
}
SECRET = {"prompt": "My key?", "completion": "It is AKIAQ3EGT7WZKL2MXH4B"}


def loaded(path: Path, rows: list[Any], notes: list[str] | None = None, **settings: Any) -> Rows:
    data = DataSection.model_validate({"file": str(write_rows(path / "rows.jsonl", rows)), **settings})
    kept = [] if notes is None else notes

    def keep(event: Event) -> None:
        if isinstance(event, Note):
            kept.append(event.message)

    return load_rows(data, ct.tokenizer("chatml"), keep)


def test_what_is_certain_ends_the_run_with_all_of_its_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, [*CLEAN, THOUGHT, THOUGHT])
    message = str(caught.value)
    assert "2 of 6 rows cannot be encoded" in message
    assert "content-lost: the thought of messages[1].reasoning_content 'Think of it.' is left out" in message
    assert "(2 rows:" in message
    assert "data.checks says which rules refuse rows" in message


def test_refused_rows_can_be_left_out(tmp_path: Path) -> None:
    found = loaded(tmp_path, [*CLEAN, THOUGHT], bad_rows="skip")
    assert len(found.train) == 4
    assert [problem.where.rpartition(":")[2] for problem in found.skipped] == ["5"]


def test_what_is_not_refused_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    found = loaded(tmp_path, [*CLEAN, THOUGHT, SECRET, SECRET], notes, checks=[])
    assert len(found.train) == 7
    said = [note for note in notes if "`veneer data` names all" in note]
    assert said[0].startswith("content-lost (1 training row): rows that contain something that ")
    assert said[1].startswith(
        "secret (2 training rows): rows that contain what looks like a key or a password (first: "
    )
    assert f"(first: {tmp_path}/rows.jsonl:5: " in said[0]
    with pytest.raises(DataError, match="secret: "):
        loaded(tmp_path, [*CLEAN, SECRET], checks=["secret"])


def test_clean_rows_train_as_without_checks(tmp_path: Path) -> None:
    notes: list[str] = []
    assert loaded(tmp_path, CLEAN, notes).digest() == loaded(tmp_path, CLEAN, checks=[]).digest()
    assert len(notes) == 1, "the sentence with counts"


def test_evaluation_rows_are_checked_too(tmp_path: Path) -> None:
    other = write_rows(tmp_path / "eval.jsonl", [THOUGHT])
    with pytest.raises(DataError, match=r"eval\.jsonl:1: content-lost"):
        loaded(tmp_path, CLEAN, eval_file=str(other))


def test_every_check_is_a_rule() -> None:
    assert {check.value for check in Check} <= set(RULES)


def test_a_check_whose_findings_are_neither_refused_nor_said_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(check: RowCheck) -> RowCheck:
        def run(row: Row, setting: LintSetting) -> Iterable[Finding]:
            made.append(check.rules[0].name)
            return check.run(row, setting)

        return RowCheck(check.rules, run)

    monkeypatch.setattr(audit, "ROW_CHECKS", tuple(map(counted, ROW_CHECKS)))
    tokenizer = ct.tokenizer("chatml")
    record = Record("f:1", ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}))
    trace = Encoder(tokenizer, template_of(tokenizer)).trace(record)
    assert RowAudit(tokenizer, ()).refusal(record, trace) is None
    left = {check.rules[0].name for check in ROW_CHECKS} - set(made)
    assert left == {"control-tokens-spelled", "personal-data"}
