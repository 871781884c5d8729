"""Jobs in a file of SQLite, for any number of processes on one machine.

Every call opens the file again, so a file that was deleted meanwhile is rebuilt from the folders of the jobs. A file
that turns out to be damaged is renamed to `jobs.damaged`, and the call starts again. The folders are never out of date,
so no change is lost. The times of leases are seconds since the machine was started, because the wall clock may jump.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from veneer.errors import OutputError
from veneer.io.files import reported
from veneer.jobs.folder import STUDIO_FOLDER, JobFolder, job_folders
from veneer.jobs.job import Job, JobStatus, job_of
from veneer.jobs.store import Change, JobLease
from veneer.text.strict_json import to_text

STORE_FILE = "jobs.sqlite"
SCHEMA_VERSION = 1
WAIT_BUSY_SECONDS = 30.0
"""The longest wait of a call for other writers."""
RETRY_BUSY_SECONDS = 0.01
"""Seconds between two tries of operations for which SQLite does not wait itself."""
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
_DOCUMENT = "cast(document as blob)"
"""Read as bytes, because sqlite3 raises an operational error for text that is not UTF-8, as for a full disk."""
T = TypeVar("T")
log = logging.getLogger("veneer.jobs")


class _Damage(Exception):
    """The file is not a readable database of jobs.

    Args:
        reason: what is wrong.
        file: the inode of the file that was open; None if it could not be opened.
    """

    def __init__(self, reason: str, file: int | None = None):
        super().__init__(reason)
        self.file = file


class SqliteStore:
    """See `JobStore`.

    Args:
        root: the folder of the runs.
    """

    def __init__(self, root: Path):
        self._root = root
        self._file = root / STUDIO_FOLDER / STORE_FILE

    def add(self, job: Job) -> Job:
        """See `JobStore.add`."""

        def write(database: sqlite3.Connection) -> Job:
            last = database.execute("select max(place) from jobs").fetchone()[0]
            placed = replace(job, place=(last or 0.0) + 1.0)
            self._keep(database, placed)
            return placed

        return self._writing(write)

    def get(self, job: str) -> Job | None:
        """See `JobStore.get`."""
        return self._with(lambda database: _get(database, job))

    def jobs(self, *statuses: JobStatus) -> Sequence[Job]:
        """See `JobStore.jobs`."""
        return self._with(lambda database: list(_jobs(database, *statuses)))

    def change(self, job: str, change: Change) -> Job | None:
        """See `JobStore.change`."""

        def write(database: sqlite3.Connection) -> Job | None:
            found = _get(database, job)
            return None if found is None else self._changed(database, found, change)

        return self._writing(write)

    def rearrange(self, change: Callable[[Sequence[Job]], Sequence[Job]]) -> Sequence[Job]:
        """See `JobStore.rearrange`."""

        def write(database: sqlite3.Connection) -> Sequence[Job]:
            found = _jobs(database, JobStatus.QUEUED)
            waiting = {job.id: job for job in found if not JobFolder(self._root / job.id).lost()}
            made = change(list(waiting.values()))
            for job in made:
                if job != waiting[job.id]:
                    self._keep(database, job)
            return made

        return self._writing(write)

    def claim(self, owner: str, device: str, refusal: Callable[[Job], str | None], start: Change) -> Job | None:
        """See `JobStore.claim`."""
        unwritten: list[OutputError] = []

        def write(database: sqlite3.Connection) -> Job | None:
            unwritten.clear()
            job = self._started(database, refusal, start, unwritten)
            if job is not None:
                lease = (job.id, owner, device, _now(), _boot())
                database.execute("insert or replace into leases values (?, ?, ?, ?, ?)", lease)
            return job

        claimed = self._writing(write)
        if claimed is None and unwritten:
            raise unwritten[0]
        return claimed

    def _started(
        self,
        database: sqlite3.Connection,
        refusal: Callable[[Job], str | None],
        start: Change,
        unwritten: list[OutputError],
    ) -> Job | None:
        """The first queued job that can run, started. The errors of folders that cannot be written go into
        `unwritten`."""
        for job in _jobs(database, JobStatus.QUEUED, order="priority desc, place, created, id"):
            if JobFolder(self._root / job.id).lost():
                # The folder is authoritative, and starting the job would create it again.
                database.execute("delete from jobs where id = ?", (job.id,))
                continue
            reason = refusal(job)
            try:
                if reason is not None:
                    if reason != job.waiting:
                        self._changed(database, job, partial(replace, waiting=reason))
                    continue
                started = self._changed(database, job, start)
            except OutputError as error:
                # Later jobs do not wait for it. The reason is only in the store.
                unwritten.append(error)
                _put(database, replace(job, waiting=_unwritable(error)))
                continue
            if started is not None:
                return started
        return None

    def beat(self, job: str, owner: str) -> bool:
        """See `JobStore.beat`."""

        def write(database: sqlite3.Connection) -> bool:
            told = database.execute(
                "update leases set beat = ?, boot = ? where job = ? and owner = ?", (_now(), _boot(), job, owner)
            )
            return told.rowcount > 0

        return self._writing(write)

    def release(self, job: str, owner: str) -> None:
        """See `JobStore.release`."""
        self._writing(
            lambda database: database.execute("delete from leases where job = ? and owner = ?", (job, owner)).rowcount
        )

    def leases(self) -> Sequence[JobLease]:
        """See `JobStore.leases`."""
        rows = self._with(
            lambda database: database.execute("select job, owner, device, beat, boot from leases").fetchall()
        )
        now, boot = _now(), _boot()
        return [
            JobLease(job, owner, at, now - beat if boot == of else float("inf")) for job, owner, at, beat, of in rows
        ]

    def forget(self, jobs: Collection[str]) -> None:
        """See `JobStore.forget`."""

        def write(database: sqlite3.Connection) -> None:
            for name in jobs:
                job = _get(database, name)
                if job is not None and job.status is not JobStatus.RUNNING and JobFolder(self._root / name).lost():
                    database.execute("delete from jobs where id = ?", (name,))

        self._writing(write)

    def reconcile(self) -> None:
        """See `JobStore.reconcile`. The whole file is also checked for damage."""

        def write(database: sqlite3.Connection) -> None:
            said = database.execute("pragma quick_check(1)").fetchone()[0]
            if said != "ok":
                raise _Damage(said)
            self._reconcile(database)

        self._writing(write)

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
            self._keep(database, made)
        return made

    def _keep(self, database: sqlite3.Connection, job: Job) -> None:
        JobFolder(self._root / job.id).write(job)
        _put(database, job)

    def _writing(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `write` in a transaction that no other writer interrupts."""

        def whole(database: sqlite3.Connection) -> T:
            database.execute("begin immediate")
            # If `write` fails, closing the database rolls everything back.
            made = write(database)
            database.execute("commit")
            return made

        return self._with(whole)

    def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work` on the database. If the file is damaged, `work` runs once more on a rebuilt one."""
        try:
            return self._once(work)
        except _Damage as damage:
            self._set_aside(damage)
        try:
            return self._once(work)
        except _Damage as damage:
            message = f"{self._file}: was damaged and rebuilt, and is damaged again: {damage}; the disk may be failing"
            raise OutputError(message) from damage

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        opened: int | None = None
        try:
            with closing(self._connect()) as database:
                opened = self._number()
                return work(database)
        except _Damage as damage:
            raise _Damage(str(damage), opened) from damage
        except sqlite3.OperationalError as error:
            done = "opened" if opened is None else "written"
            raise OutputError(f"{self._file}: cannot be {done}: {error}; the jobs' folders are unchanged") from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise  # a bug in this module: damage is raised as the base class itself
            raise _Damage(str(error), opened) from error

    def _set_aside(self, damage: _Damage) -> None:
        """Rename the file, so that the next call rebuilds it, unless another process has done so meanwhile."""
        if damage.file is not None and damage.file != self._number():
            return
        aside = self._file.with_suffix(".damaged")
        log.warning("%s: %s; it is renamed to %s and rebuilt from the jobs' folders", self._file, damage, aside.name)
        with reported(self._file):
            # The write-ahead log belongs to it, and not to the new one.
            for end in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    self._file.with_name(self._file.name + end).replace(aside.with_name(aside.name + end))

    def _number(self) -> int | None:
        """The inode of the file; None if it does not exist."""
        try:
            return self._file.stat().st_ino
        except FileNotFoundError:
            return None

    def _connect(self) -> sqlite3.Connection:
        with reported(self._file.parent):
            self._file.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as failed:
            database = sqlite3.connect(self._file, timeout=WAIT_BUSY_SECONDS, isolation_level=None)
            failed.callback(database.close)
            if database.execute("pragma user_version").fetchone()[0] != SCHEMA_VERSION:
                _write_ahead(database)
                database.execute("begin immediate")
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                self._reconcile(database)
                database.execute(f"pragma user_version = {SCHEMA_VERSION}")
                database.execute("commit")
            failed.pop_all()
        return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switch to a write-ahead log (WAL), so that readers and a writer do not block each other.

    SQLite does not wait for others in this statement, and two processes may create the database at the same time.
    """
    end = time.monotonic() + WAIT_BUSY_SECONDS
    while True:
        try:
            database.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(RETRY_BUSY_SECONDS)


def _put(database: sqlite3.Connection, job: Job) -> None:
    row = (job.id, job.created_at, job.status.value, job.priority, job.place, to_text(job.to_json()))
    database.execute("insert or replace into jobs values (?, ?, ?, ?, ?, ?)", row)


def _unwritable(error: OutputError) -> str:
    """Why a job waits whose folder cannot be written. It leaves out the path, because clients see it."""
    cause = error.__cause__
    return "its folder cannot be written" + (f": {cause.strerror}" if isinstance(cause, OSError) else "")


def _get(database: sqlite3.Connection, job: str) -> Job | None:
    row = database.execute(f"select {_DOCUMENT} from jobs where id = ?", (job,)).fetchone()
    return None if row is None else _job(row[0])


def _jobs(database: sqlite3.Connection, *statuses: JobStatus, order: str = "created, id") -> Iterator[Job]:
    """The jobs with certain states, or all of them; each is parsed when the iterator reaches it."""
    chosen = f"where status in ({', '.join('?' * len(statuses))})" if statuses else ""
    query = f"select {_DOCUMENT} from jobs {chosen} order by {order}"
    for (document,) in database.execute(query, [status.value for status in statuses]).fetchall():
        yield _job(document)


def _job(document: bytes) -> Job:
    try:
        return job_of(json.loads(document))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Damage(f"a job in it cannot be read: {type(error).__name__}") from error


def _now() -> float:
    """Seconds since the machine was started, the same in every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@cache
def _boot() -> str:
    """The id of the machine's current boot. Its clock starts again with each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
