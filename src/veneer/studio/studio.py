"""What all routes of the studio share, and its beginning and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from veneer.enums import JobCode
from veneer.http_server.errors import ApiError
from veneer.http_server.limits import ServerLimits
from veneer.jobs.folder import STUDIO
from veneer.jobs.job import Job
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.bases import Bases
from veneer.studio.called import folder_called, models_called, paths_of
from veneer.studio.chat_host import ChatHost
from veneer.studio.checking import Checking
from veneer.studio.files import FileStatus, FileStore, StoredFile
from veneer.studio.looks import LastRows, Looks
from veneer.studio.repeats import Repeats
from veneer.studio.request import StudioRequest
from veneer.studio.sessions import Sessions
from veneer.studio.watch import WatchedRun, Watcher
from veneer.studio.workers import WorkerKeeper

PREFERENCES = "preferences.jsonl"
"""The file of preferences in the studio's own folder, and what it is called where it is handed out."""


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
    """Whether jobs may bring rewards that are Python or programs."""
    estimates: Looks = field(default_factory=lambda: Looks("veneer-estimates"))
    """Plans of jobs that are not made."""
    last_rows: LastRows = field(default_factory=LastRows)
    """Belongs to the thread of `estimates`."""
    lints: Looks = field(default_factory=lambda: Looks("veneer-lints"))
    """Pages on files."""
    repeats: Repeats = field(default_factory=Repeats)
    begun: float = field(default_factory=time.time)
    draining: bool = False

    @property
    def own(self) -> Path:
        """The folder of what is of no run."""
        return self.root / STUDIO

    @property
    def preferences_file(self) -> Path:
        """Where the preferences are kept that were marked in the chat."""
        return self.own / PREFERENCES

    @property
    def accepting(self) -> bool:
        """See `Served.accepting`."""
        return self.chat.accepting

    def start(self) -> None:
        """Take up the folder, and go on with its jobs."""
        self.queue.store.reconcile()
        self.watcher.start()
        self.checking.begin()
        self.workers.start()

    def drain(self, seconds: float) -> bool:
        """See `Served.drain`."""
        return self.chat.drain(seconds)

    def close(self) -> None:
        """See `Served.close`. The run under way keeps its last step, and goes on when a studio is started again."""
        self.chat.close()
        self.workers.close()
        self.checking.close()
        self.watcher.close()
        self.estimates.close()
        self.lints.close()

    def file_of(self, name: object, param: str) -> StoredFile:
        """The uploaded file of an id. Raises ApiError (404) where there is none."""
        found = self.files.get(name)
        if found is None:
            raise ApiError(404, f"{param}: there is no such file", param=param, code="file_not_found")
        return found

    def rows_of(self, name: object, param: str) -> StoredFile:
        """The uploaded file of an id, whose rows can be used. Raises ApiError where there is none (404), or they cannot
        (400)."""
        found = self.file_of(name, param)
        if found.status is FileStatus.ERROR:
            raise ApiError(400, f"{param}: {found.status_details}", param=param, code="invalid_file")
        return found

    def run_of(self, request: Request, key: str = "name") -> WatchedRun:
        """The run that a request names. Raises ApiError (404) where there is none."""
        found = self.watcher.run(request.query_params.get(key, ""))
        if found is None:
            raise ApiError(404, f"{key}: the folder has no such run", param=key, code="run_not_found")
        return found

    def names_in(self, text: str, job: Job | None = None) -> dict[str, str]:
        """What users call the paths that stand in a text of a run or a task, by the paths.

        Args:
            text: what is to be told.
            job: the job that the text is about; None for a run of the command line.
        """
        uploaded = {str(self.files.content(one)): one.filename for one in self.files.all() if one.id in text}
        own = folder_called(self.root) if job is None else paths_of(job, self.root)
        return {**models_called(self.bases.all().values()), **uploaded, **own}

    async def looked(self) -> None:
        """Take up at once what a request has changed. Where that fails, the request is done all the same, and the pages
        are told of it by the next look."""
        await asyncio.to_thread(self.watcher.looked)

    async def caught_up(self, jobs: Sequence[Job]) -> None:
        """Take up at once what has become of jobs that a client is about to be told of: it may ask next for what they
        have made."""
        if not self.watcher.knows(jobs):
            await self.looked()


def make_studio(request: StudioRequest, sessions: Sessions) -> Studio:
    """A studio over a folder, which is made where there is none, with workers of the devices as `worker_devices` gives
    them."""
    root = request.folder.resolve()
    own = root / STUDIO
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
