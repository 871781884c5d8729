"""The size of a process that is about to plan a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from veneer.planning.memory import MB, libraries


def test_a_process_says_how_large_it_is_when_a_run_is_planned(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "veneer.screens.start_size", str(tiny_model)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert 200 * MB < int(done.stdout) - libraries() < 400 * MB
