from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, chat, found_alone, write
from veneer.data.lint.checks.unusable import UNUSABLE
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.enums import ObjectiveName

FAULTS: list[tuple[str, str, Any]] = [
    ("unusable-row", "chatml", '{"messages": [{"role": "user"'),
    ("unusable-row", "chatml", chat({"role": "bot", "content": "Hi"}, "a:Yes")),
    ("unusable-row", "chatml", chat("u:Hello")),
    ("refused-by-template", "mistral", chat("u:Hi", "u:And?", f"a:{JOHN}")),
]


@pytest.mark.parametrize(("rule", "template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(rule: str, template: str, row: Any, tmp_path: Path) -> None:
    found_alone(rule, template, row, tmp_path)


def test_a_file_of_prompts_alone_says_which_objective_takes_them(tmp_path: Path) -> None:
    asked = [{"prompt": "2 + 2?", "reference": "4"}, {"messages": [{"role": "user", "content": "And 3?"}]}]
    (found,) = lint(write(tmp_path / "rows.jsonl", asked)).found
    assert (found.rule.name, found.rows) == ("unusable-row", [0, 1])
    assert "--objective grpo" in found.rule.remedy
    for other in ({"prompt": "2 + 2?", "completion": "4"}, {"broken": 1}):
        report = lint(write(tmp_path / "rows.jsonl", [*asked, other]))
        assert [one.rule.remedy for one in report.found if one.rule.name == "unusable-row"] == [UNUSABLE.remedy]
    (found,) = lint(write(tmp_path / "rows.jsonl", asked), LintSetting(objective=ObjectiveName.SFT)).found
    assert found.rule.remedy == UNUSABLE.remedy, "an objective was given"
