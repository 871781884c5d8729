"""Looks after a folder of runs: what is new in it, told to whoever asks, from whichever point on they ask.

Everything that changes gets the next number. So a page that was asleep, or lost its connection, asks for what has
changed since the number that it saw last, and misses nothing.
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

SECONDS = 0.5
"""Seconds between two looks."""
RETRY_SECONDS = 2.0
"""Seconds until the next look where one has failed."""
NOTES = "studio-notes.json"
"""The file with a user's text and tags, in the folder of a run."""
log = logging.getLogger("veneer.studio")


@dataclass(frozen=True, slots=True)
class RunExtras:
    """What stands in the folder of a run beside what the run tells."""

    text: str = ""
    """What a user has noted."""
    tags: tuple[str, ...] = ()
    report: bool = False
    """Whether the run has written a report on its evaluation."""


def read_extras(folder: RunFolder) -> RunExtras:
    """What stands in the folder of a run; notes that are damaged count as none."""
    noted = json_or_none(folder.path / NOTES) or {}
    text, tags = noted.get("text", ""), noted.get("tags", [])
    return RunExtras(
        text if isinstance(text, str) else "",
        tuple(dict.fromkeys(map(str, tags))) if isinstance(tags, list) else (),
        folder.report_file.is_file(),
    )


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run in the folder, as it was at a look: a request reads it while the next look goes on."""

    name: str
    log: RunLog
    settings: Mapping[str, Any]
    record: RunRecord
    extras: RunExtras
    version: int
    """The number of its last change."""
    stamp: tuple[float, ...] = ()
    """When the files were written that are read again where they change: configuration, notes, report."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since a number."""

    version: int
    """The number to ask from next."""
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
        """Which watcher counts: numbers of another one mean nothing here."""
        self._runs: dict[str, WatchedRun] = {}
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._removed: dict[str, int] = {}
        self._removed_jobs: dict[str, int] = {}
        self._version = 0
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        """Is held for a whole look: what an earlier one has read must not take the place of what a later one has."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look once, and then go on looking."""
        self.look()
        self._thread = threading.Thread(target=self._watch, name="veneer-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def runs(self) -> list[WatchedRun]:
        """The runs in the folder."""
        with self._lock:
            return list(self._runs.values())

    def run(self, name: str) -> WatchedRun | None:
        """The run of that name."""
        with self._lock:
            return self._runs.get(name)

    def knows(self, jobs: Iterable[Job]) -> bool:
        """Whether jobs have been seen as they are, each with its run as it was then or later."""
        with self._lock:
            seen = [(self._jobs.get(job.id), job) for job in jobs]
        return all(known is not None and known[1] == job for known, job in seen)

    def since(self, version: int) -> Changes:
        """What has changed since a number; 0 gives everything that there is."""
        with self._lock:
            return Changes(
                version=self._version,
                runs=[run for run in self._runs.values() if run.version > version],
                jobs=[job for changed, job in self._jobs.values() if changed > version],
                removed=[name for name, changed in self._removed.items() if changed > version] if version else [],
                removed_jobs=[one for one, changed in self._removed_jobs.items() if changed > version and version],
            )

    def looked(self) -> bool:
        """Take up what has changed in the folder, as far as it can be read now; whether all of it could. Why not is in
        the log."""
        try:
            self.look()
        except (OutputError, OSError) as error:
            # A full disk, say, on which the store cannot be opened: it may have room again.
            log.warning("%s", error)
        except Exception as error:
            # Nobody has foreseen it. Every page would stand still without a word if it ended the thread, and a client
            # repeats a request that fails, which was done.
            log.error("the look at the folder has failed: %s", where_raised(error))
        else:
            return True
        return False

    def look(self) -> None:
        """Take up what has changed in the folder."""
        with self._looking:
            # Jobs come first: where one is known as ended, its run is known as it has ended.
            jobs = self._stored()
            self._look_at_runs()
            self._take_up(jobs)

    def _stored(self) -> dict[str, Job]:
        """The jobs of the store by their ids. Those whose folders were deleted are forgotten there."""
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
            return  # deleted meanwhile
        told = log is not before
        new = known is None or stamp != known.stamp
        # A run that rests may be begun again, and one that is running be killed: that shows in its lock.
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
        pause = SECONDS
        while not self._stop.wait(pause):
            pause = SECONDS if self.looked() else RETRY_SECONDS


def _written_at(file: Path) -> float:
    """When a file was written; 0 where there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
