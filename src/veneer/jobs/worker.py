"""`python -m veneer.jobs.worker RUNS DEVICE`: runs the jobs of a folder on one device, one after another.

The worker computes nothing itself: each job is a `veneer train`, `evaluate` or `export` in a process of its own, so a
crash of one does not end the other. If a worker is killed, its process continues; the next worker finds it and waits
for its end.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from veneer.errors import OutputError
from veneer.jobs.device import serves
from veneer.jobs.ending import after_process
from veneer.jobs.folder import STUDIO_FOLDER, JobFolder
from veneer.jobs.job import Job, JobStatus, JobWish
from veneer.jobs.process import FoundProcess, StartedProcess, job_lock
from veneer.jobs.queue import ended
from veneer.jobs.sqlite_store import SqliteStore
from veneer.jobs.store import JobLease, JobStore
from veneer.machine.system import memory, memory_limit
from veneer.runtime.posix import is_locked, lock_patiently
from veneer.text.strict_json import to_text

POLL_SECONDS = 0.25
"""Seconds between two checks of the queue, and of the user's wish for a running job."""
BEAT_SECONDS = 2.0
RETRY_WRITE_SECONDS = 2.0
"""Seconds after which a failed write is retried."""
ABANDONED_SECONDS = 30.0
"""Seconds without a beat after which a worker takes over the job of a device that has no worker."""
DELETED_FOLDER_ERROR = "its folder was deleted while it was running, so its process was stopped; create the job again"


class JobProcess(Protocol):
    """A process that runs a job."""

    def running(self) -> bool:
        """Whether it is still at the job."""
        ...

    def code(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None if it is running or the code is
        unknown."""
        ...

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        ...


def job_memory(device: str) -> int | None:
    """The bytes that a job may take now, if the system reports them. None on a GPU, which a job has to itself: its plan
    was made for that card's memory."""
    if device.startswith("cuda"):
        return None
    _, available = memory()
    limit = memory_limit()
    return available if limit is None or available is None else min(available, limit)


@dataclass(slots=True)
class Worker:
    """Runs jobs on one device.

    Args:
        root: the folder of the runs.
        store: the store of the jobs.
        device: the device on which jobs compute; `auto` leaves it to their settings.
        room: gives the bytes that a job may take now on a device.
        command: the beginning of the command line; by default that of veneer.
    """

    root: Path
    store: JobStore
    device: str = "auto"
    room: Callable[[str], int | None] = job_memory
    command: Sequence[str] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    """Is set to end the worker. The current run saves its last step, and the next worker resumes it."""
    owner: str = field(default_factory=lambda: f"{os.getpid()}-{secrets.token_hex(4)}", init=False)

    def work(self) -> None:
        """Run jobs until `stop` is set."""
        self._persistently(self.store.reconcile)
        while not self.stop.is_set():
            try:
                job = self._left_over() or self._next()
                if job is not None:
                    self._carry_out(job)
                    continue
            except OutputError as error:
                # For example a full disk, which may have room again later. Nothing is lost.
                print(error, file=sys.stderr, flush=True)
                self.stop.wait(RETRY_WRITE_SECONDS)
            self.stop.wait(POLL_SECONDS)

    def _left_over(self) -> Job | None:
        """A running job whose worker is gone: one of this device, which has only this worker, or of a device that has
        no worker any more, because the studio was started again with other devices."""
        owned = {lease.job for lease in self.store.leases() if self._others(lease)}
        for job in self.store.jobs(JobStatus.RUNNING):
            if job.id not in owned:
                return job
        return None

    def _others(self, lease: JobLease) -> bool:
        """Whether a lease belongs to another device that has a worker, or may soon have one again."""
        if lease.device in (self.device, ""):
            return False
        return lease.age < ABANDONED_SECONDS or worker_runs(self.root, lease.device)

    def _next(self) -> Job | None:
        return self.store.claim(self.owner, self.device, self._refusal, self._start)

    def _refusal(self, job: Job) -> str | None:
        wants = (job.settings.get("compute") or {}).get("device", "auto")
        if not serves(self.device, wants):
            return f"it waits for the device {wants}"
        room = self.room(self.device)
        if job.peak is None or room is None or job.peak <= room:
            return None
        return f"its plan needs {job.peak / 1e6:,.0f} MB, but only {room / 1e6:,.0f} MB are free now"

    def _start(self, job: Job) -> Job:
        started = replace(job, status=JobStatus.RUNNING, wanted=JobWish.RUN, attempts=job.attempts + 1, waiting=None)
        return started.noted(time.time(), "a worker has started it")

    def _carry_out(self, job: Job) -> None:
        """Run a job until its process has ended, and record its next state."""
        folder = JobFolder(self.root / job.id)
        if folder.lost() and folder.deleted():
            # Its worker was killed, and then its folder was deleted: there is nothing to lock or to resume.
            self._persistently(lambda: self._settle(job.id, folder, code=None, asked=False))
            return
        with job_lock(folder) as held:
            process: JobProcess
            if held is None:
                process = FoundProcess(folder, job)
            elif self.store.get(job.id) != job:
                return  # another worker was faster
            elif self._begun(job, folder):
                # Its process ended while there was no worker.
                self._persistently(lambda: self._settle(job.id, folder, code=None, asked=False))
                return
            else:
                options = [] if self.device == "auto" else ["--device", self.device]
                process = StartedProcess(folder, job, held, self.command, options)
            asked = self._watch(job.id, folder, process)
            self._persistently(lambda: self._settle(job.id, folder, code=process.code(), asked=asked))

    def _begun(self, job: Job, folder: JobFolder) -> bool:
        """Whether a process was already started in this attempt: then its output exists."""
        return folder.output_file(job.attempts).exists()

    def _watch(self, job: str, folder: JobFolder, process: JobProcess) -> bool:
        """Wait for the end of a process, and ask it to stop if that is wanted or its folder was deleted. Returns
        whether it was asked."""
        asked, beat = False, 0.0
        while process.running():
            now = time.monotonic()
            with suppress(OutputError):
                if now - beat >= BEAT_SECONDS:
                    self.store.beat(job, self.owner)
                    beat = now
                found = self.store.get(job)
                wanted = found is None or found.wanted is not JobWish.RUN or self.stop.is_set() or folder.deleted()
                # A process that does not handle signals yet must be asked again; a second SIGTERM changes nothing.
                if wanted:
                    process.send(signal.SIGTERM)
                    asked = True
            time.sleep(POLL_SECONDS / 5 if asked else POLL_SECONDS)
        return asked

    def _settle(self, job: str, folder: JobFolder, *, code: int | None, asked: bool) -> None:
        stopping, deleted = self.stop.is_set(), folder.deleted()

        def change(found: Job) -> Job | None:
            if found.status is not JobStatus.RUNNING:
                return None
            if deleted and found.wanted is not JobWish.CANCEL:
                return ended(found, JobStatus.FAILED, DELETED_FOLDER_ERROR, time.time())
            return after_process(found, folder, code=code, stopping=stopping, asked=asked, now=time.time())

        self.store.change(job, change)
        self.store.release(job, self.owner)

    def _persistently(self, write: Callable[[], None]) -> None:
        """Make a write that must not be lost, and retry it until it succeeds or the worker is stopped."""
        while True:
            try:
                write()
                return
            except OutputError as error:
                print(error, file=sys.stderr, flush=True)
                if self.stop.wait(RETRY_WRITE_SECONDS):
                    return


def worker_lock(root: Path, device: str) -> Path:
    """The file whose lock the worker of a device holds; it contains the id of its process."""
    return worker_file(root, device, "lock")


def worker_file(root: Path, device: str, kind: str) -> Path:
    """A file of the worker of a device."""
    return root / STUDIO_FOLDER / f"worker-{device.replace(':', '-')}.{kind}"


def worker_runs(root: Path, device: str) -> bool:
    """Whether a device has a worker."""
    return is_locked(worker_lock(root, device))


def end_worker(root: Path, device: str) -> None:
    """Ask the worker of a device to end, whichever process has started it. Without a worker, do nothing."""
    if not worker_runs(root, device):
        return
    with suppress(OSError, ValueError, KeyError):
        os.kill(int(json.loads(worker_lock(root, device).read_text(encoding="utf-8"))["pid"]), signal.SIGTERM)


def work_on(worker: Worker) -> int:
    """Let a worker work until a signal comes. Returns the exit code: 0, or 2 if its device already has a worker."""
    lock = worker_lock(worker.root, worker.device)
    lock.parent.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    with lock.open("a+", encoding="utf-8") as file:
        try:
            lock_patiently(file)
        except BlockingIOError:
            return 2
        file.truncate(0)
        file.write(to_text({"pid": os.getpid()}))
        file.flush()
        worker.work()
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the jobs of a folder on a device."""
    root = Path(argv[0])
    return work_on(Worker(root, SqliteStore(root), argv[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
