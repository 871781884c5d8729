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

from forking import ForkServer

_FORKER = """
import json, os, sys
import torch
from veneer.comparison import worker
from veneer.signals import end_by_signals
torch.set_num_threads(1)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        _, status = os.waitpid(order["wait"], 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        code = 1
        try:
            end_by_signals(lambda: sys.exit(worker.main(order["argv"])))
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
"""
COMMAND = [sys.executable, "-m", "veneer.comparison.worker"]


class ForkedWorkers:
    """Stands in for the processes that `veneer.comparison.run` starts."""

    def __init__(self, folder: Path):
        self._folder, self._begun = folder, 0
        self._server = ForkServer(_FORKER)

    def close(self) -> None:
        self._server.close()

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Have runs of comparisons forked until the patch is undone."""
        starts = SimpleNamespace(Popen=self._start, PIPE=subprocess.PIPE)
        patch.setattr("veneer.comparison.run.subprocess", starts)

    def _start(self, command: Sequence[str], *, stdout: int, stderr: IO[bytes], text: bool) -> _ForkedWorker:
        assert command[:3] == COMMAND
        assert (stdout, text) == (subprocess.PIPE, True)
        self._begun += 1
        pipe = self._folder / f"{self._begun}.out"
        os.mkfifo(pipe)
        pid = self._server.ask({"argv": list(command[3:]), "out": str(pipe), "err": stderr.name})
        return _ForkedWorker(self._server, pid, pipe)


class _ForkedWorker:
    """A run's process, with what is used of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, pid: int, pipe: Path):
        self._server, self._pid = server, pid
        self.stdout = pipe.open(encoding="utf-8")
        self.returncode: int | None = None

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def communicate(self) -> None:
        self.stdout.read()
        self.stdout.close()
        self.returncode = self._server.ask({"wait": self._pid})
