"""The state that all routes of the studio share, and how it starts and stops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from veneer.enums import JobCode
from veneer.http_server.errors import ApiError
from veneer.http_server.limits import ServerLimits
from veneer.jobs.folder import STUDIO_FOLDER
from veneer.jobs.job import Job
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.bases import Bases
from veneer.studio.chat_host import ChatHost
from veneer.studio.checking import Checking
from veneer.studio.files import FileStatus, FileStore, StoredFile
from veneer.studio.last_rows import LastRows
from veneer.studio.long_work import LongWork
from veneer.studio.path_names import names_for_folder, names_for_job, names_for_models
from veneer.studio.repeats import Repeats
from veneer.studio.request import StudioRequest
from veneer.studio.sessions import Sessions
from veneer.studio.watch import WatchedRun, Watcher
from veneer.studio.workers import WorkerKeeper

PREFERENCES = "preferences.jsonl"
"""The name of the file of preferences, in the studio's own folder and as a download."""


@dataclass(slots=True)
class Studio:
    """A studio over a folder of runs (`veneer.http_server.server.Served`)."""

    root: Path
    queue: JobQueue
    files: FileStore
    watcher: Watcher
    bases: Bases
    checking: Checking
    chat: ChatHost
    workers: WorkerKeeper
    sessions: Sessions
    limits: ServerLimits
    job_code: JobCode = JobCode.REFUSE
    """Whether jobs may contain rewards that are Python code or programs."""
    estimates: LongWork = field(default_factory=lambda: LongWork("veneer-estimates"))
    """Makes the plans of jobs that are not created yet."""
    last_rows: LastRows = field(default_factory=LastRows)
    """The rows of the last plan. Only the thread of `estimates` uses them."""
    lints: LongWork = field(default_factory=lambda: LongWork("veneer-lints"))
    """Checks files for the pages on them."""
    repeats: Repeats = field(default_factory=Repeats)
    notes_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while notes are compared with what a page has seen, and replaced."""
    begun: float = field(default_factory=time.time)
    draining: bool = False

    @property
    def own(self) -> Path:
        """The studio's own folder, for everything that does not belong to a run."""
        return self.root / STUDIO_FOLDER

    @property
    def preferences_file(self) -> Path:
        """The file of the preferences that were marked in the chat."""
        return self.own / PREFERENCES

    @property
    def accepting(self) -> bool:
        """See `Served.accepting`."""
        return self.chat.accepting

    def start(self) -> None:
        """Read the folder, and resume its jobs."""
        self.queue.store.reconcile()
        self.watcher.start()
        self.checking.begin()
        self.workers.start()

    def drain(self, seconds: float) -> bool:
        """See `Served.drain`."""
        return self.chat.drain(seconds)

    def close(self) -> None:
        """See `Served.close`. A run in progress keeps its last step, and resumes when a studio is started again."""
        self.chat.close()
        self.workers.close()
        self.checking.close()
        self.watcher.close()
        self.estimates.close()
        self.lints.close()

    def file_of(self, name: object, param: str) -> StoredFile:
        """The uploaded file with an id. Raises ApiError (404) if there is none."""
        found = self.files.get(name)
        if found is None:
            raise ApiError(404, f"{param}: there is no such file", param=param, code="file_not_found")
        return found

    def rows_of(self, name: object, param: str, *, mapped: bool) -> StoredFile:
        """The uploaded file with an id, for a job that may have `mapped` its columns. Raises ApiError if there is none
        (404) or its rows cannot be used (400)."""
        found = self.file_of(name, param)
        if found.status is FileStatus.ERROR and not (mapped and found.unnamed):
            raise ApiError(400, f"{param}: {found.status_details}", param=param, code="invalid_file")
        return found

    def run_of(self, request: Request, key: str = "name") -> WatchedRun:
        """The run that a request names. Raises ApiError (404) if there is none."""
        return self.run_named(request.query_params.get(key, ""), key)

    def run_named(self, name: str, key: str = "name") -> WatchedRun:
        """The run of this name, which a request has under a key. Raises ApiError (404) if there is none."""
        found = self.watcher.run(name)
        if found is None:
            raise ApiError(404, f"{key}: the folder has no such run", param=key, code="run_not_found")
        return found

    def names_in(self, text: str, job: Job | None = None) -> dict[str, str]:
        """The names that users know for the paths in text about a run or a task, by the paths.

        Args:
            text: the text, which may contain paths of uploaded files.
            job: the job that the text is about; None for a run from the command line.
        """
        uploaded = {str(self.files.content(one)): one.filename for one in self.files.all() if one.id in text}
        own = names_for_folder(self.root) if job is None else names_for_job(job, self.root)
        return {**names_for_models(self.bases.all().values()), **uploaded, **own}

    async def looked(self) -> None:
        """Read at once what a request has changed in the folder. If that fails, the request has succeeded nevertheless,
        and the pages learn of the change at the next look."""
        await asyncio.to_thread(self.watcher.try_look)

    async def caught_up(self, jobs: Sequence[Job]) -> None:
        """Read the folder at once if it knows older states of these jobs. A client that gets a job may ask next for the
        run or the model of that job."""
        if not self.watcher.knows(jobs):
            await self.looked()


def make_studio(request: StudioRequest, sessions: Sessions) -> Studio:
    """A studio over a folder, which is created if it does not exist. `request.devices` must come from
    `worker_devices`."""
    root = request.folder.resolve()
    own = root / STUDIO_FOLDER
    own.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(root)
    queue, files, watcher = JobQueue(root, store), FileStore(own / "files"), Watcher(root, store)
    bases, limits = Bases(request.models, watcher), ServerLimits()
    return Studio(
        root=root,
        queue=queue,
        files=files,
        watcher=watcher,
        bases=bases,
        checking=Checking(files, queue),
        chat=ChatHost(root, request.compute, bases, watcher, own / "adapters", limits),
        workers=WorkerKeeper(root, request.devices),
        sessions=sessions,
        limits=limits,
        job_code=request.job_code,
    )
