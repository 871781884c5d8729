"""Jobs in a file of SQLite, for any number of processes on one machine.

Every call opens the file anew. So a file that was deleted or damaged meanwhile is made again, from the folders of the
jobs. Times of leases are of the clock since the machine was started: the wall's may jump.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from veneer.errors import OutputError
from veneer.jobs.folder import STUDIO, JobFolder, job_folders
from veneer.jobs.job import Job, JobStatus, job_of
from veneer.jobs.store import Change, JobLease
from veneer.strict_json import to_text

FILE = "jobs.sqlite"
VERSION = 1
BUSY_SECONDS = 30.0
"""Seconds that a call waits for others that write."""
RETRY_SECONDS = 0.01
"""Seconds between two tries of what SQLite does not wait for."""
_TABLES = """
create table if not exists jobs (
  id text primary key, created real not null, status text not null, priority integer not null, place real not null,
  document text not null
);
create index if not exists jobs_order on jobs (status, priority desc, place, created);
create table if not exists leases (
  job text primary key, owner text not null, device text not null, beat real not null, boot text not null
);
"""


class SqliteStore:
    """See `JobStore`.

    Args:
        root: the folder of the runs.
    """

    def __init__(self, root: Path):
        self._root = root
        self._file = root / STUDIO / FILE

    def add(self, job: Job) -> Job:
        """See `JobStore.add`."""
        with self._writing() as database:
            last = database.execute("select max(place) from jobs").fetchone()[0]
            placed = replace(job, place=(last or 0.0) + 1.0)
            JobFolder(self._root / job.id).write(placed)
            _put(database, placed)
        return placed

    def get(self, job: str) -> Job | None:
        """See `JobStore.get`."""
        with self._open() as database:
            return _get(database, job)

    def jobs(self, *statuses: JobStatus) -> Sequence[Job]:
        """See `JobStore.jobs`."""
        with self._open() as database:
            rows = database.execute("select document from jobs order by created, id").fetchall()
        found = [_job(row[0]) for row in rows]
        return [job for job in found if not statuses or job.status in statuses]

    def change(self, job: str, change: Change) -> Job | None:
        """See `JobStore.change`."""
        with self._writing() as database:
            found = _get(database, job)
            return None if found is None else self._changed(database, found, change)

    def claim(self, owner: str, device: str, refusal: Callable[[Job], str | None], start: Change) -> Job | None:
        """See `JobStore.claim`."""
        unwritten: list[OutputError] = []
        with self._writing() as database:
            order = "select document from jobs where status = ? order by priority desc, place, created, id"
            for (document,) in database.execute(order, (JobStatus.QUEUED.value,)).fetchall():
                job = _job(document)
                reason = refusal(job)
                try:
                    if reason is not None:
                        if reason != job.waiting:
                            self._changed(database, job, lambda one, why=reason: replace(one, waiting=why))  # type: ignore[misc]
                        continue
                    started = self._changed(database, job, start)
                except OutputError as error:
                    # Those behind it do not wait for it. Why it waits stands in the store alone.
                    unwritten.append(error)
                    _put(database, replace(job, waiting=_unwritable(error)))
                    continue
                if started is not None:
                    lease = (job.id, owner, device, _now(), _boot())
                    database.execute("insert or replace into leases values (?, ?, ?, ?, ?)", lease)
                    return started
        if unwritten:
            raise unwritten[0]
        return None

    def beat(self, job: str, owner: str) -> bool:
        """See `JobStore.beat`."""
        with self._writing() as database:
            told = database.execute(
                "update leases set beat = ?, boot = ? where job = ? and owner = ?", (_now(), _boot(), job, owner)
            )
            return told.rowcount > 0

    def release(self, job: str, owner: str) -> None:
        """See `JobStore.release`."""
        with self._writing() as database:
            database.execute("delete from leases where job = ? and owner = ?", (job, owner))

    def leases(self) -> Sequence[JobLease]:
        """See `JobStore.leases`."""
        with self._open() as database:
            rows = database.execute("select job, owner, device, beat, boot from leases").fetchall()
        now, boot = _now(), _boot()
        return [
            JobLease(job, owner, at, now - beat if boot == of else float("inf")) for job, owner, at, beat, of in rows
        ]

    def reconcile(self) -> None:
        """See `JobStore.reconcile`."""
        with self._writing() as database:
            self._reconcile(database)

    def _reconcile(self, database: sqlite3.Connection) -> None:
        told = {job.id: job for job in (folder.read() for folder in job_folders(self._root)) if job is not None}
        for (name,) in database.execute("select id from jobs").fetchall():
            if name not in told:
                database.execute("delete from jobs where id = ?", (name,))
        for job in told.values():
            _put(database, job)

    def _changed(self, database: sqlite3.Connection, job: Job, change: Change) -> Job | None:
        made = change(job)
        if made is not None and made != job:
            JobFolder(self._root / job.id).write(made)
            _put(database, made)
        return made

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The database, which nobody else changes within the block."""
        with self._open() as database:
            database.execute("begin immediate")
            # Where the block fails, closing the database rolls everything back.
            yield database
            database.execute("commit")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._connect()
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self._file}: cannot be opened: {error}") from error
        except sqlite3.DatabaseError:
            # Damaged: the folders hold all of it.
            self._file.replace(self._file.with_suffix(".damaged"))
            database = self._connect()
        try:
            yield database
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self._file}: cannot be written: {error}; the jobs' folders are as before") from error
        finally:
            database.close()

    def _connect(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as failed:
            database = sqlite3.connect(self._file, timeout=BUSY_SECONDS, isolation_level=None)
            failed.callback(database.close)
            if database.execute("pragma user_version").fetchone()[0] != VERSION:
                _write_ahead(database)
                database.execute("begin immediate")
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                self._reconcile(database)
                database.execute(f"pragma user_version = {VERSION}")
                database.execute("commit")
            failed.pop_all()
        return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Let readers and a writer go on beside each other from now on (WAL).

    SQLite itself does not wait where it changes this: two processes that make the database at once meet here.
    """
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(RETRY_SECONDS)


def _put(database: sqlite3.Connection, job: Job) -> None:
    row = (job.id, job.created_at, job.status.value, job.priority, job.place, to_text(job.to_json()))
    database.execute("insert or replace into jobs values (?, ?, ?, ?, ?, ?)", row)


def _unwritable(error: OutputError) -> str:
    """Why a job waits whose folder cannot be written, without the path: a client learns none of this machine's."""
    cause = error.__cause__
    return "its folder cannot be written" + (f": {cause.strerror}" if isinstance(cause, OSError) else "")


def _get(database: sqlite3.Connection, job: str) -> Job | None:
    row = database.execute("select document from jobs where id = ?", (job,)).fetchone()
    return None if row is None else _job(row[0])


def _job(document: str) -> Job:
    return job_of(json.loads(document))


def _now() -> float:
    """Seconds since the machine was started, the same in every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@cache
def _boot() -> str:
    """Which start of the machine this is; its clock begins anew with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
