from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import JOHN, Q, call, chat, found_alone

FAULTS: list[tuple[str, Any]] = [
    ("chatml", chat(f"u:{Q}", call({"city": "Paris"}), "t:1", f"a:{JOHN}")),
    ("llama31_tools", chat(f"u:{Q}", call('{"city": "Paris"}'), "t:1", f"a:{JOHN}")),
    ("qwen3", chat(f"u:{Q}", call([["city", "Paris"]]), "t:1", f"a:{JOHN}")),
    (
        "llama31_tools",
        chat(
            f"u:{Q}",
            {**call({}), "tool_calls": [*call({"a": 1})["tool_calls"], *call({"b": 2}, "other")["tool_calls"]]},
            "t:1",
            f"a:{JOHN}",
        ),
    ),
]


@pytest.mark.parametrize(("template", "row"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(template: str, row: Any, tmp_path: Path) -> None:
    found_alone("tool-call-lost", template, row, tmp_path)
