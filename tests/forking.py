"""A process that has imported everything: runs of the command line are forked from it, so that each takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

UNSYNCED = "import os\nos.fsync = lambda descriptor: None\n"
"""The first lines of a program whose files reach the disk in the system's own time, as those of `conftest.unsynced`."""


class ForkServer:
    """The process.

    Args:
        program: reads a line of JSON for each order, and prints a number for each answer.
    """

    def __init__(self, program: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", UNSYNCED + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def close(self) -> None:
        self._orders.close()
        self._process.wait(30)
        self._answers.close()

    def ask(self, order: Mapping[str, Any]) -> int:
        """Send an order, and wait for its first answer."""
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        return self.answer()

    def answer(self) -> int:
        """Wait for another answer."""
        return int(self._answers.readline())
