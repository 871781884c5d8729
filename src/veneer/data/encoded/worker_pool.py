"""Several processes share the groups of a job, and the results come back in the order of the groups.

The processes are programs of their own (`veneer.data.encoded.pool_worker`). `multiprocessing` would import the caller's
main module in each of them, so that a script without a guard would start itself. Windows has no such connections
between programs, so the process with the job does it alone there.
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

GROUPS_PER_PROCESS = 3
"""The number of groups in work or waiting, for each process."""
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from veneer.data.encoded.pool_worker import main; main(int(sys.argv[1]))"
)
"""The program of a process: it gets this process's own `sys.path`, so that it imports the same veneer from anywhere."""

Group = TypeVar("Group")
Result = TypeVar("Result")
_Taken = TypeVar("_Taken", contravariant=True)
_Made = TypeVar("_Made", covariant=True)
_Telling = queue.SimpleQueue[Event | None]
"""An event about a group in work; None when the group is done."""


class SharedJob(Protocol[_Taken, _Made]):
    """The work of every process. It is pickled, and its class is imported in each of them."""

    @property
    def does(self) -> str:
        """The purpose of a process, as a continuation of "a process that": "encodes rows"."""

    @property
    def remedy(self) -> str:
        """The remedy if a process has ended."""

    def begin(self, tell: Subscriber) -> Callable[[_Taken], _Made]:
        """Make the function that processes a group, in the process that will run it.

        Args:
            tell: gets the progress of a group that alone takes long.
        """


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a group; notes and errors travel through the same pipe."""

    result: Any


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """A working process, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    job: SharedJob[Any, Any]

    @classmethod
    def start(cls, job: SharedJob[Any, Any]) -> PoolWorker:
        """Start a process for a job; `begin` sends it the job.

        Raises:
            DataError: the process cannot be started.
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
        """Send the job to the process.

        Raises:
            DataError: the process has ended.
        """
        try:
            send(self.connection, self.job)
        except OSError as error:
            raise self._ended() from error

    def done(self, group: Any, tell: Subscriber) -> Any:
        """The result of a group.

        Args:
            group: the input of the job.
            tell: gets the progress of the group if it alone takes long.

        Raises:
            DataError: the process has ended.
            VeneerError: the job raised it.
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
        """End the process immediately."""
        self.process.terminate()
        self.process.wait()

    def close(self) -> None:
        """Close the connection to a process that has ended."""
        self.connection.close()


def send(connection: Connection[Any, Any], value: object) -> None:
    """Send an object that the other end receives by `recv`.

    `Connection.send` sends a view of its own buffer. If it fails, a traceback keeps both alive, and Python from 3.13 on
    complains on standard error if the buffer ends first.

    Raises:
        OSError: the other end is gone.
    """
    connection.send_bytes(pickle.dumps(value))


def shared_out(
    groups: Iterable[Group], job: SharedJob[Group, Result], processes: int, emit: Subscriber = ignore
) -> Iterator[Result]:
    """Do a job in several processes, as its results are requested; yields the result of each group, in order.

    Args:
        groups: the inputs of the job, several items in each, so that little time goes into sending them.
        job: the work.
        processes: the number of processes.
        emit: receives the progress of the next group if it alone takes long.

    Raises:
        DataError: a process cannot be started, or has ended.
        VeneerError: the job raised it.
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
        # Events come from other threads, and this thread passes them on.
        future, telling = waiting.popleft()
        while (event := telling.get()) is not None:
            emit(event)
        return future.result()

    with ExitStack() as stack:
        threads = ThreadPoolExecutor(processes)
        workers = [_started(job, stack) for _ in range(processes)]
        # The processes are ended first, so that no thread waits for one.
        stack.callback(_end, workers, threads)
        for worker in workers:
            worker.begin()
            free.put(worker)
        for group in groups:
            telling: _Telling = queue.SimpleQueue()
            waiting.append((threads.submit(done, group, telling), telling))
            if len(waiting) >= GROUPS_PER_PROCESS * processes:
                yield received()
        while waiting:
            yield received()


def _started(job: SharedJob[Any, Any], stack: ExitStack) -> PoolWorker:
    """A process that ends, and whose connection is closed, together with the stack."""
    worker = PoolWorker.start(job)
    stack.callback(worker.close)
    stack.callback(worker.end)
    return worker


def _end(workers: Sequence[PoolWorker], threads: ThreadPoolExecutor) -> None:
    """End the processes immediately, and then the threads that wait for them."""
    for worker in workers:
        worker.end()
    threads.shutdown(cancel_futures=True)
