"""Workers of a comparison, forked from a process that has imported everything, so that a run takes half a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from helpers.processes.forking import ForkServer


class ForkedWorkers:
    """Stands in for the processes that `veneer.comparison.run` starts."""

    def __init__(self, folder: Path, forks: ForkServer):
        self._folder, self._forks, self._begun = folder, forks, 0

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Have runs of comparisons forked until the patch is undone."""
        starts = SimpleNamespace(Popen=self._start, PIPE=subprocess.PIPE)
        patch.setattr("veneer.comparison.run.subprocess", starts)

    def _start(
        self, command: Sequence[str], *, stdout: int, stderr: IO[bytes], encoding: str, errors: str
    ) -> _ForkedWorker:
        *_, module, program, order = command
        assert command[:1] == [sys.executable]
        assert module == "-m"
        assert (stdout, encoding, errors) == (subprocess.PIPE, "utf-8", "replace")
        self._begun += 1
        pipe = self._folder / f"{self._begun}.out"
        os.mkfifo(pipe)
        pid = self._forks.start([order], pipe, stderr.name, program=program)
        return _ForkedWorker(self._forks, pid, pipe)


class _ForkedWorker:
    """A run's process, with what is used of `subprocess.Popen`."""

    def __init__(self, forks: ForkServer, pid: int, pipe: Path):
        self._forks, self._pid = forks, pid
        self.stdout = pipe.open(encoding="utf-8")
        self.returncode: int | None = None

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def communicate(self) -> None:
        self.stdout.read()
        self.stdout.close()
        self.returncode = self._forks.wait(self._pid)
