from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, chat, found_alone

FAULTS: list[tuple[str, str, Any]] = [
    ("empty-turn", "chatml", chat(f"u:{Q}", "a:\u200b \n")),
    ("empty-turn", "chatml", chat("u:  ", f"a:{JOHN}")),
    ("empty-turn", "chatml", {"prompt": Q, "completion": " \u2060"}),
    ("turn-order", "chatml", chat(f"u:{Q}", "u:Well?", f"a:{JOHN}")),
    ("turn-order", "chatml", chat(f"a:{JOHN}", f"u:{Q}", f"a:{JOHN} Yes.")),
    ("turn-order", "chatml", chat(f"u:{Q}", f"a:{JOHN}", "u:Thanks")),
    ("turn-order", "chatml", chat(f"u:{Q}", "s:Be kind.", f"a:{JOHN}")),
    ("unknown-keys", "chatml", chat({"role": "user", "content": Q, "contnet": "x"}, f"a:{JOHN}")),
]


@pytest.mark.parametrize(("rule", "template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(rule: str, template: str, row: Any, tmp_path: Path) -> None:
    found_alone(rule, template, row, tmp_path)
