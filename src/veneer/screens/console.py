"""Where people read: standard error, since standard output is left to results that can be piped."""

from __future__ import annotations

import os

from rich.console import Console


def console() -> Console:
    """Where people read: standard error."""
    return Console(stderr=True)


def write_to_stderr(text: str) -> None:
    """Write past Python's buffers, as a signal handler must: the signal may arrive while they are being written."""
    os.write(2, text.encode())
