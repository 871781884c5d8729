"""Every check is listed, every rule has its planted fault, and clean rows break no rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.rows.lint_rows import chat, clean, found_in, sentence, write
from helpers.texts import chat_templates as ct
from veneer.data.lint.registry import FILE_CHECKS, ROW_CHECKS
from veneer.data.lint.row import LintSetting
from veneer.data.lint.rules import Severity
from veneer.data.lint.run import lint


@pytest.mark.parametrize(
    "template", [name for name in ct.TEMPLATES if name not in ("unmaskable", "unclosed", "qwen3", "thinking")]
)
def test_clean_rows_break_no_rule(template: str, tmp_path: Path) -> None:
    rows = (
        clean(40)
        if template not in ("mistral", "gemma")
        else [chat(*[f"u:{sentence(2 * i)}", f"a:{sentence(2 * i + 1)}"]) for i in range(40)]
    )
    rows += [
        chat(f"u:{sentence(500 + i)}", f"a:{sentence(600 + i)}", f"u:{sentence(700 + i)}", f"a:{sentence(800 + i)}")
        for i in range(5)
    ]
    rows.append(
        chat(
            "u:L'été, ça va? Ünïcödé — “quotes”, É— and 日本語, привет, Ελλάδα, naïve café",
            "a:Ça va très bien – merci… £5 ½ × 3 = 1½ ≈ 1.5",
        )
    )
    rows.append(
        chat(
            'u:Use key = "value", password = "your_password_here", sk-xxxxxxxxxxxxxxxxxxxxxxxx',
            "a:Write to a@example.com or 4111 1111 1111 1112, 2024-01-02 10:11:12.123456",
        )
    )
    if template != "llama3":
        rows = [*rows, {"instruction": sentence(901), "input": sentence(902), "output": sentence(903)}]
        rows.append(
            {
                "conversations": [
                    {"from": "human", "value": sentence(904)},
                    {"from": "gpt", "value": f' "{sentence(905)}"\n\tyes & <b>no</b> '},
                ]
            }
        )
    report = lint(write(tmp_path / "rows.jsonl", rows), LintSetting(ct.tokenizer(template), 2048))
    assert found_in(report) == {}


def test_every_rule_has_a_planted_fault() -> None:
    """A rule's name stands in the test of the check that has it."""
    for check in (*ROW_CHECKS, *FILE_CHECKS):
        module = check.run.__module__.rpartition(".")[2]
        said = (Path(__file__).parent / "checks" / f"test_{module}.py").read_text(encoding="utf-8")
        assert [rule.name for rule in check.rules if f'"{rule.name}"' not in said] == [], module


def test_rules_are_named_once_and_say_what_to_do() -> None:
    rules = [rule for check in (*ROW_CHECKS, *FILE_CHECKS) for rule in check.rules]
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.remedy and rule.summary for rule in rules)
    assert {rule.severity for rule in rules} == set(Severity)
