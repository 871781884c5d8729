"""veneer's own modules as programs of their own."""

from __future__ import annotations

import sys


def command_of(module: str) -> list[str]:
    """The beginning of the command line that runs a module of veneer in a process.

    Without `-P` Python would look for libraries in the working folder first. It would then run a user's own
    `tokenize.py` or `datasets.py` instead of the library, which the command `veneer` itself does not do.
    """
    return [sys.executable, "-P", "-m", module]
