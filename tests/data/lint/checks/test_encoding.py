from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:The cafÃ© of {Q}", f"a:{JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:It\ufffds {JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:Donâ€™t {JOHN}")),
    ("chatml", chat(f"u:{Q}", f"a:\x93quoted\x94 {JOHN}")),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("damaged-encoding", template, row, tmp_path)
