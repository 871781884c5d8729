"""Runs of the command line in several processes, as torchrun starts them, forked from one that has imported all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from helpers.processes.forking import Ended, ForkServer


@dataclass
class Started:
    """Processes at work."""

    forks: ForkServer
    pids: list[int]
    files: list[tuple[Path, Path]]
    store: TCPStore
    """Where they meet; it must not go before they do."""

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        os.kill(self.pids[rank], number)

    def when(self, ready: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, "it has not come"
            time.sleep(0.002)

    def ended(self) -> list[Ended]:
        """Wait for all of them."""
        codes = [self.forks.wait(pid) for pid in self.pids]
        return [
            # A process that is killed as soon as it is there has not opened its files.
            Ended(code, *(path.read_text(encoding="utf-8") if path.exists() else "" for path in files))
            for code, files in zip(codes, self.files, strict=True)
        ]


class Forker:
    """Starts runs of the command line in groups of processes."""

    def __init__(self, folder: Path, forks: ForkServer):
        self._folder, self._forks, self._runs = folder, forks, 0

    def start(self, world: int, argv: Sequence[str], *, restarts: int = 0) -> Started:
        """Start a command in so many processes, with torchrun's variables."""
        self._runs += 1
        store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60), wait_for_workers=False)
        pids, files = [], []
        for rank in range(world):
            out, err = (self._folder / f"{self._runs}.{rank}.{kind}" for kind in ("out", "err"))
            variables = {
                "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": str(restarts),
            }  # fmt: skip
            pids.append(self._forks.start(argv, out, err, environment=variables))
            files.append((out, err))
        return Started(self._forks, pids, files, store)

    def run(self, world: int, argv: Sequence[str], *, restarts: int = 0) -> list[Ended]:
        """Run a command in so many processes to its end."""
        return self.start(world, argv, restarts=restarts).ended()
