from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import Q, chat, found_alone, found_in, sentence, write
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.enums import ObjectiveName

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q}", f"a:{sentence(3, 900)}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("overlong", template, row, tmp_path)


PAIR = {"prompt": Q, "chosen": sentence(3), "rejected": sentence(4, 900)}
LONG: dict[ObjectiveName, tuple[str, Any]] = {
    ObjectiveName.SFT: ("overlong", {"prompt": Q, "completion": sentence(3, 900)}),
    ObjectiveName.PRETRAINING: ("overlong", {"text": sentence(3, 900)}),
    ObjectiveName.DPO: ("left-out", PAIR),
    ObjectiveName.KTO: ("left-out", {"prompt": Q, "completion": sentence(3, 900), "label": True}),
    ObjectiveName.GRPO: ("left-out", {"prompt": sentence(3, 900)}),
}


@pytest.mark.parametrize("objective", LONG)
def test_rows_that_a_run_never_cuts_are_errors_if_they_are_too_long(objective: ObjectiveName, tmp_path: Path) -> None:
    rule, row = LONG[objective]
    file = write(tmp_path / "rows.jsonl", [row])
    report = lint(file, LintSetting(ct.tokenizer("chatml"), 500, objective=objective))
    assert {"overlong", "left-out"} & found_in(report).keys() == {rule}
    assert report.failed is (rule == "left-out")
    assert not lint(file, LintSetting(ct.tokenizer("chatml"), 50_000, objective=objective)).failed


def test_without_an_objective_a_long_pair_is_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [PAIR])
    assert "overlong" in found_in(lint(file, LintSetting(ct.tokenizer("chatml"), 500)))
