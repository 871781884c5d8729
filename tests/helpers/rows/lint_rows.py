"""Rows with planted faults, and what the checks of a data file find in them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from helpers.texts import chat_templates as ct
from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting, Row, read_rows
from veneer.data.lint.run import lint

WORDS = [
    a + b for a in ("har", "lan", "mea", "cop", "vio", "orch") for b in ("bour", "tern", "dow", "per", "lin", "ard")
]
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def sentence(seed: int, words: int = 14) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


HABITS = {"qwen3": {"boilerplate-trained"}, "thinking": {"boilerplate-trained"}}
"""Rules that a template breaks in every row."""
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- 😀 é"
"""A text that must not become markup."""
JOHN = sentence(990)
Q = sentence(991)


def read_row(where: str, raw: Any, setting: LintSetting) -> Row:
    """A row with all that can be made of it."""
    (row,) = read_rows([(where, raw)], setting)
    return row


def chat(*turns: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """A row: turns as "u:text", or whole messages."""
    messages = [{"role": ROLES[turn[0]], "content": turn[2:]} if isinstance(turn, str) else turn for turn in turns]
    return {"messages": messages, **more}


def clean(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [chat("s:Be brief.", f"u:{sentence(seed + 2 * i)}", f"a:{sentence(seed + 2 * i + 1)}") for i in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def found_in(report: LintReport) -> dict[str, list[str]]:
    """The rows of each rule, as "file:line" without the folder."""
    return {
        found.rule.name: [report.facts.where(row).rpartition("/")[2] for row in found.rows] for found in report.found
    }


def call(arguments: Any, name: str = "find") -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def found_alone(rule: str, template: str, row: Any, folder: Path) -> None:
    """Assert that a row planted among clean ones breaks a rule, and that nothing else is found.

    Args:
        rule: name of the rule.
        template: name of the chat template.
        row: the faulty row, or a damaged line.
        folder: where the file is written.
    """
    filler = [{"prompt": sentence(2 * i), "completion": sentence(2 * i + 1)} for i in range(6)]
    file = write(folder / "rows.jsonl", [*filler[:3], row, *filler[3:]])
    found = found_in(lint(file, LintSetting(ct.tokenizer(template), 500)))
    assert "rows.jsonl:4" in found[rule]
    assert {name for name, rows in found.items() if rows != ["rows.jsonl:4"]} <= HABITS.get(template, set())


def found_in_every_row(rule: str, chat_template: str, folder: Path) -> None:
    """Assert that a faulty template is found in every row, and that nothing else is found."""
    tokenizer = ct.tokenizer("chatml")
    tokenizer.chat_template = chat_template
    report = lint(write(folder / "rows.jsonl", clean(5)), LintSetting(tokenizer))
    assert {name: len(rows) for name, rows in found_in(report).items()} == {rule: 5}


def hostile_report(folder: Path, count: int = 30) -> LintReport:
    """The report of a file in which three rows have a fault, and one of these is HOSTILE."""
    rows: list[Any] = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]
    rows[3] = {"prompt": HOSTILE, "completion": "AKIAQ3EGT7WZKL2MXH4B"}
    rows[5] = {"messages": [{"role": HOSTILE, "content": "x"}]}
    rows[7] = rows[6]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lint(file, LintSetting(ct.tokenizer("chatml")))
