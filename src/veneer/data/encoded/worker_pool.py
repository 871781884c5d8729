"""Several processes share the groups of a job, and what comes of these comes back in their order.

The processes are programs of their own (`veneer.data.encoded.pool_worker`). `multiprocessing` would import the caller's
main module in each of them, so that a script without a guard would start itself. Windows has no such connections
between
programs: there a job is done by the process that has it.
"""

from __future__ import annotations

import pickle
import queue
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from veneer.errors import DataError, VeneerError
from veneer.events import Event, Subscriber, ignore

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

AHEAD = 3
"""Groups in work or waiting, for each process."""
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from veneer.data.encoded.pool_worker import main; main(int(sys.argv[1]))"
)
"""What a process runs: with this process's own `sys.path`, so that it imports the same veneer wherever that lies."""

Group = TypeVar("Group")
Result = TypeVar("Result")
_Taken = TypeVar("_Taken", contravariant=True)
_Made = TypeVar("_Made", covariant=True)
_Telling = queue.SimpleQueue[Event | None]
"""What is told of a group in work; None when it is done."""


class SharedJob(Protocol[_Taken, _Made]):
    """What every process does. It is pickled, and its class imported in each of them."""

    @property
    def does(self) -> str:
        """What a process is there for, so that it goes on after "a process that": "encodes rows"."""

    @property
    def remedy(self) -> str:
        """What to do about a process that has ended."""

    def begin(self, tell: Subscriber) -> Callable[[_Taken], _Made]:
        """Make in a process what does a group there.

        Args:
            tell: told how far a group is that takes long by itself.
        """


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a group, beside what is told and errors, which take the same way."""

    result: Any


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """A process that works, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    job: SharedJob[Any, Any]

    @classmethod
    def start(cls, job: SharedJob[Any, Any]) -> PoolWorker:
        """Start a process for a job, which it is told by `begin`.

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
                raise DataError(f"a process that {job.does} cannot be started: {error}") from error
        return cls(process, Connection(own.detach()), job)

    def begin(self) -> None:
        """Tell the process its job.

        Raises:
            DataError: it has ended.
        """
        try:
            send(self.connection, self.job)
        except OSError as error:
            raise self._ended() from error

    def done(self, group: Any, tell: Subscriber) -> Any:
        """What comes of a group.

        Args:
            group: what the job is done to.
            tell: told how far it is, if it takes long by itself.

        Raises:
            DataError: the process has ended.
            VeneerError: the job ends with it.
        """
        try:
            send(self.connection, group)
            found: Done | VeneerError | Event
            while not isinstance(found := self.connection.recv(), Done | VeneerError):
                tell(found)
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(found, VeneerError):
            raise found
        return found.result

    def _ended(self) -> DataError:
        code = self.process.wait()
        killed = ", which often means that the memory was full" if code == -9 else ""
        return DataError(f"a process that {self.job.does} ended with {code}{killed}; {self.job.remedy}")

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


def shared_out(
    groups: Iterable[Group], job: SharedJob[Group, Result], processes: int, emit: Subscriber = ignore
) -> Iterator[Result]:
    """Do a job in several processes, as what comes of it is asked for: of each group, in order.

    Args:
        groups: what it is done to, some things together, so that little of the time goes into sending them.
        job: what is done.
        processes: their number.
        emit: told how far the next group is, if it takes long by itself.

    Raises:
        DataError: a process cannot be started, or has ended.
        VeneerError: the job ends with it.
    """
    free: queue.SimpleQueue[PoolWorker] = queue.SimpleQueue()
    waiting: deque[tuple[Future[Result], _Telling]] = deque()

    def done(group: Group, telling: _Telling) -> Result:
        worker = free.get()
        try:
            result: Result = worker.done(group, telling.put)
            return result
        finally:
            free.put(worker)
            telling.put(None)

    def received() -> Result:
        # What is told comes from other threads, and is passed on by this one.
        future, telling = waiting.popleft()
        while (event := telling.get()) is not None:
            emit(event)
        return future.result()

    with ExitStack() as stack:
        threads = ThreadPoolExecutor(processes)
        workers = [_started(job, stack) for _ in range(processes)]
        # Ended first, so that no thread waits for one.
        stack.callback(_end, workers, threads)
        for worker in workers:
            worker.begin()
            free.put(worker)
        for group in groups:
            telling: _Telling = queue.SimpleQueue()
            waiting.append((threads.submit(done, group, telling), telling))
            if len(waiting) >= AHEAD * processes:
                yield received()
        while waiting:
            yield received()


def _started(job: SharedJob[Any, Any], stack: ExitStack) -> PoolWorker:
    """A process whose connection is closed, and which is ended, when the stack is."""
    worker = PoolWorker.start(job)
    stack.callback(worker.close)
    stack.callback(worker.end)
    return worker


def _end(workers: Sequence[PoolWorker], threads: ThreadPoolExecutor) -> None:
    """End the processes, whatever they are doing, and then the threads that wait for them."""
    for worker in workers:
        worker.end()
    threads.shutdown(cancel_futures=True)
