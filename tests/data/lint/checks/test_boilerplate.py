from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone, found_in_every_row

GENERATION_HEADER = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
FAULTS: list[tuple[str, Any]] = [
    ("qwen3", chat(f"u:{Q}", f"a:{JOHN}")),
    ("thinking", chat(f"u:{Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:<think>\n\n</think>\n\n{JOHN}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("boilerplate-trained", template, row, tmp_path)


def test_a_faulty_template_is_found_in_every_row(tmp_path: Path) -> None:
    found_in_every_row("boilerplate-trained", GENERATION_HEADER, tmp_path)
