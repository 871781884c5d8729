"""Rows are encoded by several processes, and come back in their order: what comes of each is what one process makes.

The processes are programs of their own (`veneer.data.encoding_worker`). `multiprocessing` would import the caller's
main module in each of them, so that a script without a guard would start itself.
"""

from __future__ import annotations

import pickle
import queue
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from veneer.data.encoding import EncodedRow
from veneer.data.lint.audit import RowAudit, Told
from veneer.data.record_groups import record_groups
from veneer.data.records import Record
from veneer.enums import Check, Overlong
from veneer.errors import DataError, VeneerError
from veneer.events import Event, Subscriber, ignore
from veneer.io.tokenizer import Tokenizer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

GROUP_ROWS = 256
"""Rows of a group at most, which are sent together."""
AHEAD = 3
"""Groups in work or waiting, for each process."""
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from veneer.data.encoding_worker import main; main(int(sys.argv[1]))"
)
"""What a process runs: with this process's own `sys.path`, so that it imports the same veneer wherever that lies."""


_Telling = queue.SimpleQueue[Event | None]
"""What is told of a group that is encoded; None when it is done."""


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """How rows are encoded."""

    tokenizer: Tokenizer
    max_length: int | None
    overlong: Overlong
    checks: tuple[Check, ...]
    """The rules under which a row is refused."""


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """What came of some rows."""

    rows: Sequence[EncodedRow]
    told: Mapping[str, Told]
    """What checks have found in them and not refused."""


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that encodes, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]

    @classmethod
    def start(cls) -> _Worker:
        """Start a process.

        Raises:
            DataError: it cannot be started.
        """
        from multiprocessing.connection import Connection  # Windows has no such connections

        own, other = socket.socketpair()
        with other:
            command = [sys.executable, "-c", _PROGRAM, str(other.fileno()), *sys.path]
            try:
                process = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
            except OSError as error:
                own.close()
                raise DataError(f"a process that encodes rows cannot be started: {error}") from error
        return cls(process, Connection(own.detach()))

    def begin(self, job: EncodingJob) -> None:
        """Tell the process its job.

        Raises:
            DataError: it has ended.
        """
        try:
            send(self.connection, job)
        except OSError as error:
            raise self._ended() from error

    def encoded(self, records: Sequence[Record], tell: Subscriber) -> EncodedGroup:
        """What comes of rows.

        Args:
            records: the rows.
            tell: told how far a row is that takes long by itself.

        Raises:
            DataError: the process has ended, or a row ends the job, as `encode_each` says.
        """
        try:
            send(self.connection, records)
            found: EncodedGroup | VeneerError | Event
            while not isinstance(found := self.connection.recv(), EncodedGroup | VeneerError):
                tell(found)
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(found, VeneerError):
            raise found
        return found

    def _ended(self) -> DataError:
        code = self.process.wait()
        killed = ", which often means that the memory was full" if code == -9 else ""
        return DataError(f"a process that encodes rows ended with {code}{killed}; the same command starts again")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.terminate()
        self.process.wait()

    def close(self) -> None:
        """Close the connection to a process that has ended."""
        self.connection.close()


def send(connection: Connection[Any, Any], value: object) -> None:
    """Send what the other end receives by `recv`.

    `Connection.send` does so from a view of a buffer of its own. Where it fails, both live on in a traceback, and
    Python from 3.13 on complains on standard error if the buffer ends first.

    Raises:
        OSError: the other end is gone.
    """
    connection.send_bytes(pickle.dumps(value))


def encode_in_processes(
    records: Iterable[Record], job: EncodingJob, audit: RowAudit, processes: int, emit: Subscriber = ignore
) -> Iterator[EncodedRow]:
    """Encode records in several processes as they are asked for: what came of each, in order.

    Args:
        records: the rows.
        job: how they are encoded.
        audit: gets what the checks find and do not refuse.
        processes: their number.
        emit: told how far the next row is that takes long by itself.

    Raises:
        DataError: as `veneer.data.encoding.encode_each`, or a process has ended.
    """
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    waiting: deque[tuple[Future[EncodedGroup], _Telling]] = deque()

    def encoded(group: Sequence[Record], telling: _Telling) -> EncodedGroup:
        worker = free.get()
        try:
            return worker.encoded(group, telling.put)
        finally:
            free.put(worker)
            telling.put(None)

    def received() -> Iterator[EncodedRow]:
        # What is told comes from other threads, and is passed on by this one.
        future, telling = waiting.popleft()
        while (event := telling.get()) is not None:
            emit(event)
        found = future.result()
        audit.join(found.told)
        return iter(found.rows)

    with ExitStack() as stack:
        threads = ThreadPoolExecutor(processes)
        workers = [_started(stack) for _ in range(processes)]
        # Ended first, so that no thread waits for one.
        stack.callback(_end, workers, threads)
        for worker in workers:
            worker.begin(job)
            free.put(worker)
        for group in record_groups(records, GROUP_ROWS):
            telling: _Telling = queue.SimpleQueue()
            waiting.append((threads.submit(encoded, group, telling), telling))
            if len(waiting) >= AHEAD * processes:
                yield from received()
        while waiting:
            yield from received()


def _started(stack: ExitStack) -> _Worker:
    """A process whose connection is closed, and which is ended, when the stack is."""
    worker = _Worker.start()
    stack.callback(worker.connection.close)
    stack.callback(worker.end)
    return worker


def _end(workers: Sequence[_Worker], threads: ThreadPoolExecutor) -> None:
    """End the processes, whatever they are doing, and then the threads that wait for them."""
    for worker in workers:
        worker.end()
    threads.shutdown(cancel_futures=True)
