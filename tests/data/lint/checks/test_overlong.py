from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lint_rows import Q, chat, found_alone, sentence

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q}", f"a:{sentence(3, 900)}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("overlong", template, row, tmp_path)
