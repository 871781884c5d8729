"""Workers of jobs in processes of their own, forked from one that has imported everything, and jobs to give them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.processes.forking import UNSYNCED
from veneer.jobs.job import Job, JobStatus
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore

PLAY = Path(__file__).parents[1] / "run_folders" / "played_runs.py"
_FORKER = f"""
import os, sys
from pathlib import Path
from veneer.jobs.sqlite_store import SqliteStore
from veneer.jobs import worker
worker.IDLE_SECONDS = 0.02
for line in sys.stdin:
    root, device, play = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        command = [sys.executable, "-S", {str(PLAY)!r}] if play else []
        os._exit(worker.work_on(worker.Worker(Path(root), SqliteStore(Path(root)), device, command=command)))
    print(pid, flush=True)
"""


class Workers:
    """Starts workers; all that are left are killed in the end."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", UNSYNCED + _FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._started: list[int] = []

    def start(self, root: Path, device: str = "auto", *, play: bool = True) -> int:
        """The number of a new worker's process."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{root}\t{device}\t{'play' if play else ''}\n")
        self._server.stdin.flush()
        self._started.append(int(self._server.stdout.readline()))
        return self._started[-1]

    def close(self) -> None:
        for pid in self._started:
            kill(pid)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.kill()
        self._server.wait()
        self._server.stdout.close()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def workers() -> Iterator[Workers]:
    found = Workers()
    try:
        yield found
    finally:
        found.close()


def queue_of(root: Path) -> JobQueue:
    return JobQueue(root, SqliteStore(root))


def played(queue: JobQueue, steps: int = 20, **how: Any) -> Job:
    """A job whose run is played."""
    return queue.create({"model": "m", "train": {"steps": steps}, "play": how}, {})


def wait_for(found: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def status(queue: JobQueue, job: Job) -> JobStatus:
    found = queue.get(job.id)
    assert found is not None
    return found.status


def becomes(queue: JobQueue, job: Job, wanted: JobStatus, seconds: float = 120.0) -> Job:
    """The job as soon as it has that status."""
    wait_for(lambda: status(queue, job) is wanted, seconds)
    found = queue.get(job.id)
    assert found is not None
    return found
