"""Write the table of rules in docs/data.md from the rules themselves: `make docs` runs it, a test compares."""

from __future__ import annotations

import re
from pathlib import Path

from veneer.data.lint.registry import RULES

PAGE = Path(__file__).parent / "data.md"


def table() -> str:
    """The rules as rows of a Markdown table."""
    rows = [
        f"| `{rule.name}` | {rule.severity.value} | {rule.cost.value} | {rule.summary} |" for rule in RULES.values()
    ]
    return "\n".join(["| rule | severity | needs | finds rows that |", "|---|---|---|---|", *rows])


def page() -> str:
    """The page with the table of today's rules in the place of the one that it has."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"\| rule \|.*?\n\n", lambda _: table() + "\n\n", text, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
