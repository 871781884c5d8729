"""Watches a folder of runs, and tells what has changed in it since a given version.

Each change gets the next number. A page that was asleep, or lost its connection, asks for everything that has changed
since the last number that it saw, and misses nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.errors import OutputError, where_raised
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobStatus
from veneer.jobs.store import JobStore
from veneer.run_folder import RunFolder
from veneer.run_records.find import run_folders
from veneer.run_records.log import RunLog
from veneer.run_records.record import RunRecord, json_or_none, read_record, read_settings
from veneer.run_records.state import state_of

LOOK_SECONDS = 0.5
"""Seconds between two looks."""
RETRY_LOOK_SECONDS = 2.0
"""Seconds until the next look after a failed one."""
NOTES = "studio-notes.json"
"""The file with the user's text and tags, in the folder of a run."""
log = logging.getLogger("veneer.studio")


@dataclass(frozen=True, slots=True)
class RunExtras:
    """Contents of a run's folder in addition to the run's log and settings."""

    text: str = ""
    """The user's notes."""
    tags: tuple[str, ...] = ()
    report: bool = False
    """Whether the run has written a report of its evaluation."""


def read_extras(folder: RunFolder) -> RunExtras:
    """The extras of a run. Damaged notes count as none."""
    noted = json_or_none(folder.path / NOTES) or {}
    text, tags = noted.get("text", ""), noted.get("tags", [])
    return RunExtras(
        text if isinstance(text, str) else "",
        tuple(dict.fromkeys(map(str, tags))) if isinstance(tags, list) else (),
        folder.report_file.is_file(),
    )


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """The state of a run at one look. It does not change: a request may read it during the next look."""

    name: str
    log: RunLog
    settings: Mapping[str, Any]
    record: RunRecord
    extras: RunExtras
    version: int
    """The number of its last change."""
    stamp: tuple[float, ...] = ()
    """When the configuration, the notes and the report were written. They are read again after a change."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes since a version."""

    version: int
    """The version to ask from next."""
    runs: Sequence[WatchedRun]
    jobs: Sequence[Job]
    removed: Sequence[str]
    """Names of runs whose folders are gone."""
    removed_jobs: Sequence[str] = ()
    """Ids of jobs whose folders are gone."""


class Watcher:
    """Watches a folder of runs, on a thread of its own.

    Args:
        root: the folder.
        store: the jobs of the folder.
    """

    def __init__(self, root: Path, store: JobStore):
        self.root, self.store = root, store
        self.epoch = secrets.token_hex(4)
        """Identifies this watcher: the versions of another one have no meaning here."""
        self._runs: dict[str, WatchedRun] = {}
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._removed: dict[str, int] = {}
        self._removed_jobs: dict[str, int] = {}
        self._version = 0
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        """Held during a look, so that results of an earlier look never replace those of a later one."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look once, and then again and again on the thread."""
        self.look()
        self._thread = threading.Thread(target=self._watch, name="veneer-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def runs(self) -> list[WatchedRun]:
        """The runs in the folder."""
        with self._lock:
            return list(self._runs.values())

    def run(self, name: str) -> WatchedRun | None:
        """The run with this name."""
        with self._lock:
            return self._runs.get(name)

    def knows(self, jobs: Iterable[Job]) -> bool:
        """Whether the last look saw these jobs in their present states. Their runs are then known as well."""
        with self._lock:
            seen = [(self._jobs.get(job.id), job) for job in jobs]
        return all(known is not None and known[1] == job for known, job in seen)

    def since(self, version: int) -> Changes:
        """The changes since a version; version 0 gives all runs and jobs."""
        with self._lock:
            return Changes(
                version=self._version,
                runs=[run for run in self._runs.values() if run.version > version],
                jobs=[job for changed, job in self._jobs.values() if changed > version],
                removed=[name for name, changed in self._removed.items() if changed > version] if version else [],
                removed_jobs=[one for one, changed in self._removed_jobs.items() if changed > version and version],
            )

    def try_look(self) -> bool:
        """Look at the folder, as far as it can be read now. Returns whether that succeeded; the log has the reason if
        not."""
        try:
            self.look()
        except (OutputError, OSError) as error:
            # For example, the store cannot be opened because the disk is full. It may have room later.
            log.warning("%s", error)
        except Exception as error:
            # The error is unforeseen. It must not end the thread, since all pages would then stop without a message. It
            # must not fail a request either, since the client would repeat a request that has succeeded.
            log.error("the look at the folder has failed: %s", where_raised(error))
        else:
            return True
        return False

    def look(self) -> None:
        """Find what has changed in the folder."""
        with self._looking:
            # Jobs are read before runs, so that the run of an ended job is known in its last state.
            jobs = self._stored()
            self._look_at_runs()
            self._take_up(jobs)

    def _stored(self) -> dict[str, Job]:
        """The jobs in the store, by their ids. The store forgets jobs whose folders were deleted."""
        jobs = {job.id: job for job in self.store.jobs()}
        resting = [job.id for job in jobs.values() if job.status is not JobStatus.RUNNING]
        lost = [name for name in resting if JobFolder(self.root / name).lost()]
        if lost:
            self.store.forget(lost)
            jobs = {job.id: job for job in self.store.jobs()}
        return jobs

    def _look_at_runs(self) -> None:
        found = {path.relative_to(self.root).as_posix(): path for path in run_folders(self.root)}
        for name, path in found.items():
            self._look_at(name, path)
        with self._lock:
            for name in self._runs.keys() - found.keys():
                del self._runs[name]
                self._removed[name] = self._next()

    def _take_up(self, jobs: Mapping[str, Job]) -> None:
        with self._lock:
            for name in self._jobs.keys() - jobs.keys():
                del self._jobs[name]
                self._removed_jobs[name] = self._next()
            for job in jobs.values():
                known = self._jobs.get(job.id)
                if known is None or known[1] != job:
                    self._jobs[job.id] = (self._next(), job)
                    self._removed_jobs.pop(job.id, None)

    def _look_at(self, name: str, path: Path) -> None:
        with self._lock:
            known = self._runs.get(name)
        folder = RunFolder(path)
        stamp = tuple(map(_written_at, (folder.config_file, path / NOTES, folder.report_file)))
        before = RunLog(folder.events_file) if known is None else known.log
        try:
            log = before.refreshed()
        except OSError:
            return  # it was deleted in the meantime
        told = log is not before
        new = known is None or stamp != known.stamp
        # Without any change in its files, a stopped run may start again or a running one be killed. The lock shows it.
        if known is not None and not (told or new) and state_of(path, log.end) is known.record.state:
            return
        settings = read_settings(path) if known is None or new else known.settings
        extras = read_extras(folder) if known is None or new else known.extras
        record = read_record(name, path, log, settings)
        with self._lock:
            changed = known is None or record != known.record or extras != known.extras or told
            version = self._next() if known is None or changed else known.version
            self._runs[name] = WatchedRun(name, log, settings, record, extras, version, stamp)
            self._removed.pop(name, None)

    def _next(self) -> int:
        self._version += 1
        return self._version

    def _watch(self) -> None:
        pause = LOOK_SECONDS
        while not self._stop.wait(pause):
            pause = LOOK_SECONDS if self.try_look() else RETRY_LOOK_SECONDS


def _written_at(file: Path) -> float:
    """When a file was written; 0 if it does not exist."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
