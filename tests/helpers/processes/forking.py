"""A process that has imported everything: commands of veneer are forked from it, so that each takes half a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

UNSYNCED = "import os\nos.fsync = lambda descriptor: None\n"
"""The first lines of a program whose files reach the disk in the system's own time, as those of `conftest.unsynced`."""
_PROGRAM = """
import gc, json, resource, sys, time, traceback
gc.disable()  # while modules are imported, when nothing is garbage
import torch
import torch._dynamo  # what torch.optim imports at its first use: 1.3 of the 1.8 seconds of a first run
import torch.distributed
import torch.distributed.checkpoint.hf_storage
import torch.distributed.fsdp
import veneer.cli, veneer.screens.train, veneer.training.run
import veneer.comparison.worker
import veneer.planning.time
import veneer.training.evaluations.shown_prompts
from veneer.runtime.signals import end_by_signals
torch.set_num_threads(1)
veneer.planning.time.PROBE_SECONDS = veneer.planning.time.PROBE_AT_MOST = 0.005  # as in conftest.hasty_probe
veneer.training.evaluations.shown_prompts.SHARE = float('inf')  # every sample is made, on a busy machine too
gc.enable()
gc.freeze()  # so that collections of the processes that are forked walk, and copy, nothing that is imported here
PROGRAMS = {
    "veneer": veneer.cli.main,
    "veneer.comparison.worker": lambda argv: sys.exit(veneer.comparison.worker.main(argv)),
}
def stay(path, text):  # until the kill that comes once a file has a text; going on might end the command before it
    latest = time.monotonic() + 60
    while os.path.isfile(path) and os.path.getsize(path) and text in open(path, errors="replace").read():
        if time.monotonic() > latest:
            break
        time.sleep(0.002)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        _, status = os.waitpid(order["wait"], 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        os.environ.update(order["environment"])
        if order["until"]:
            os.fsync = lambda descriptor, until=order["until"]: stay(*until)
        for name, value in order["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        code = 1
        try:
            end_by_signals(lambda: PROGRAMS[order["program"]](order["argv"]))
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
os._exit(0)  # a clean end takes a second, and on a busy machine many
"""


@dataclass
class Ended:
    """How a process ended."""

    code: int
    """Exit status; minus the signal's number where one ended it."""
    out: str
    err: str


class ForkServer:
    """The process. It is started at its first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(30)
            process.stdout.close()

    def start(
        self,
        argv: Sequence[str],
        out: Path | str,
        err: Path | str,
        *,
        program: str = "veneer",
        environment: Mapping[str, str] = MappingProxyType({}),
        limits: Mapping[str, int] = MappingProxyType({}),
        until: tuple[Path, str] | None = None,
    ) -> int:
        """Fork a command, which writes to the files `out` and `err`, and give its number. `environment` is laid over
        its own; `limits` are those of the system, such as `RLIMIT_FSIZE`, in bytes. A command that is to be killed goes
        on `until` a file has a text, and waits where it next has a file written to the disk."""
        order = {"program": program, "argv": list(argv), "out": str(out), "err": str(err)}
        place = None if until is None else [str(until[0]), until[1]]
        return self._ask({**order, "environment": dict(environment), "limits": dict(limits), "until": place})

    def wait(self, pid: int) -> int:
        """Wait for a process to end; its exit status, or minus the number of the signal that ended it."""
        return self._ask({"wait": pid})

    def _ask(self, order: Mapping[str, Any]) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", UNSYNCED + _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())
