"""Consoles whose output the tests read."""

from __future__ import annotations

import io

from rich.console import Console


def recorded(*, terminal: bool = False, width: int = 120) -> Console:
    return Console(file=io.StringIO(), record=True, force_terminal=terminal, width=width)


def cells(text: str) -> dict[str, list[str]]:
    """The cells of each row of a printed table, by its first one."""
    """The cells of a printed table's rows, by the first of each."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}
