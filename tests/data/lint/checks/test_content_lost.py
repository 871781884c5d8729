from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone, found_in_every_row, sentence
from helpers.texts import chat_templates as ct

NO_SYSTEM = "{% for m in messages if m.role != 'system' %}" + ct.CHATML_NO_PROMPT.partition("%}")[2]
FAULTS: list[tuple[str, str, Any]] = [
    (
        "content-lost",
        "chatml",
        chat(f"u:{Q}", {"role": "assistant", "content": JOHN, "reasoning_content": sentence(5)}),
    ),
    ("content-lost", "chatml", chat(f"u:{Q}", f"a:{JOHN}", tools=[{"function": {"name": "look_up"}}])),
    (
        "old-thoughts-lost",
        "qwen3",
        chat(f"u:{Q}", f"a:<think>\nwell\n</think>\n\n{JOHN}", "u:And?", f"a:<think>\nso\n</think>\n\n{sentence(7)}"),
    ),
]


@pytest.mark.parametrize(("rule", "template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(rule: str, template: str, row: Any, tmp_path: Path) -> None:
    found_alone(rule, template, row, tmp_path)


def test_a_faulty_template_is_found_in_every_row(tmp_path: Path) -> None:
    found_in_every_row("content-lost", NO_SYSTEM, tmp_path)
