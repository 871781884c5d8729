"""The process that runs a job: started by a worker, found by a later one, and asked to stop.

A worker holds the lock of the job's `.job-process`, and its child inherits it. If the lock is taken, a process is
running the job, even if the worker that started it was killed, so no second one is started. The id of the process is in
the mark of the run's own lock, which only the process itself holds. An evaluation or export has no such lock: the
worker writes the id of its process into a file, with the number of the attempt.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from veneer.errors import OutputError
from veneer.io.files import write_text
from veneer.io.locks import LOCK
from veneer.jobs.arguments import arguments_of
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind
from veneer.run_records.state import mark_of
from veneer.runtime.own_module import command_of
from veneer.runtime.posix import end_group, is_locked, lock_patiently
from veneer.text.strict_json import to_text

ERROR_PREFIX = "error: "
"""The beginning of the line in which the command line reports its error (`veneer.cli`)."""
MOST_ERROR_CHARS = 20_000
"""The most characters of an error that are kept; the end is cut off."""


class StartedProcess:
    """A process that a worker has started for a job.

    Args:
        folder: the folder of the job.
        job: the job; the name of its output file contains the attempt.
        held: the lock of the job, which the process inherits.
        command: the beginning of the command line; by default that of veneer.
        options: the end of the command line.

    Raises:
        OutputError: the file with its id cannot be written; the process is then ended.
    """

    def __init__(
        self, folder: JobFolder, job: Job, held: IO[str], command: Sequence[str] = (), options: Sequence[str] = ()
    ):
        program = list(command) or command_of("veneer")
        with folder.output_file(job.attempts).open("ab") as output:
            self._child = subprocess.Popen(
                [*program, *arguments_of(job, folder), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[held.fileno()],
                start_new_session=True,
            )
        if job.kind is not JobKind.TRAIN:
            try:
                write_text(folder.pid_file, to_text({"attempt": job.attempts, "pid": self._child.pid}))
            except OutputError:
                # A later worker could not ask it to stop. Without its output the attempt has not begun.
                end_group(self._child)
                folder.output_file(job.attempts).unlink(missing_ok=True)
                raise

    def running(self) -> bool:
        """Whether it is still at the job."""
        return self._child.poll() is None

    def code(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None while it is running."""
        return self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still running."""
        with suppress(ProcessLookupError):
            self._child.send_signal(number)


class FoundProcess:
    """A process that an earlier worker has started for a job.

    Args:
        folder: the folder of the job.
        job: the job.
    """

    def __init__(self, folder: JobFolder, job: Job):
        self._folder, self._job = folder, job

    def running(self) -> bool:
        """Whether it is still at the job."""
        return is_locked(self._folder.process_file)

    def code(self) -> int | None:
        """None: it is the child of another process, so only the job's folder shows how it ended."""
        return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if its id is known and it is still running."""
        pid = self._pid()
        if isinstance(pid, int) and pid > 1:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _pid(self) -> Any:
        train = self._job.kind is JobKind.TRAIN
        try:
            if not is_locked(self._folder.path / LOCK if train else self._folder.process_file):
                return None
            text = mark_of(self._folder.path) if train else self._folder.pid_file.read_text(encoding="utf-8")
            values = json.loads(text)
            return values.get("pid") if train or values.get("attempt") == self._job.attempts else None
        except (OSError, ValueError, AttributeError):
            return None


@contextmanager
def job_lock(folder: JobFolder) -> Iterator[IO[str] | None]:
    """Yields the lock of a job's processes for this worker and its child; None if another process holds it.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        file = folder.process_file.open("a", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder.process_file}: cannot be written: {error.strerror}") from error
    with file:
        try:
            lock_patiently(file)
        except BlockingIOError:
            yield None
            return
        yield file


def error_in(folder: JobFolder, attempt: int) -> str | None:
    """The error with which the process of an attempt ended; None if it printed none.

    It goes from the last line that begins with `ERROR_PREFIX` to the end of the output, because it may have several
    lines.
    """
    begin, message, at = ERROR_PREFIX.encode(), None, 0
    try:
        with folder.output_file(attempt).open("rb") as file:
            for line in file:
                at += len(line)
                if line.startswith(begin):
                    message = at - len(line) + len(begin)
            if message is None:
                return None
            file.seek(message)
            text = file.read(4 * (MOST_ERROR_CHARS + 1)).decode("utf-8", errors="replace").strip()
    except OSError:
        return None
    return text if len(text) <= MOST_ERROR_CHARS else f"{text[:MOST_ERROR_CHARS]} …"
