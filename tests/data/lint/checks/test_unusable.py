from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lint_rows import JOHN, chat, found_alone

FAULTS: list[tuple[str, str, Any]] = [
    ("unusable-row", "chatml", '{"messages": [{"role": "user"'),
    ("unusable-row", "chatml", chat({"role": "bot", "content": "Hi"}, "a:Yes")),
    ("unusable-row", "chatml", chat("u:Hello")),
    ("refused-by-template", "mistral", chat("u:Hi", "u:And?", f"a:{JOHN}")),
]


@pytest.mark.parametrize(("rule", "template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(rule: str, template: str, row: Any, tmp_path: Path) -> None:
    found_alone(rule, template, row, tmp_path)
