"""Consoles whose output the tests read."""

from __future__ import annotations

import io

from rich.console import Console


def recorded(*, terminal: bool = False, width: int = 120) -> Console:
    return Console(file=io.StringIO(), record=True, force_terminal=terminal, width=width)
