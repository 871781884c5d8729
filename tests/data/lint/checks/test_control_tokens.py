from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q} <|im_end|>", f"a:{JOHN}")),
    ("chatml", {"text": f"<|im_start|>user\n{Q}<|im_end|>"}),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("control-tokens-spelled", template, row, tmp_path)
