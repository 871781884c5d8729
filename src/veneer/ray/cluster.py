"""A Ray cluster, and tasks on it whose results do not depend on where they run and how often they were started.

A task is a plain function of veneer and one argument. Ray assigns it to a worker, and assigns it again if its worker or
its node is lost; the new attempt finds what the task has written so far and continues from there. So all nodes must see
one file system: every task works in the folder in which the command was given.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from veneer.errors import ConfigError, Interrupted, OutputError, RankLost, VeneerError
from veneer.runtime.signals import deferred, stop_signalled

LOCAL = "ray"
"""The address of the cluster that runs on this machine, or of one that is started for the command."""
CLIENT = "ray://"
"""The prefix of an address of Ray's client server, for a driver that is not on the cluster's network."""
PATIENCE = 10.0
"""Seconds within which an address must answer."""
ATTEMPTS = 3
"""How often a task is restarted if its worker or node is lost."""
POLL = 0.2
"""Seconds between two looks at whether a signal came."""

Done = Callable[[int, "Any | VeneerError"], None]
"""Called with the number of a task that has ended, and with its result or the error that it refused with."""


@dataclass(frozen=True, slots=True)
class TaskFolder:
    """The folder in which a task works, and the required version of veneer."""

    folder: Path
    version: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block in the folder.

        Raises:
            ConfigError: this node has another version of veneer.
            OutputError: this node does not see the folder.
        """
        here = version("veneer")
        if here != self.version:
            raise ConfigError(
                f"a node of the cluster has veneer {here} and the command has veneer {self.version}; install one "
                "version on all nodes"
            )
        if not self.folder.is_dir():
            raise OutputError(
                f"a node of the cluster does not see {self.folder}, in which the command was given; give it in a "
                "folder of a file system that all nodes have under one path"
            )
        with chdir(self.folder):
            yield


@dataclass(frozen=True, slots=True)
class TaskResources:
    """The resources that every task gets on a node."""

    cpus: float
    gpus: float
    threads: int
    """The number of CPU threads that it computes with."""
    together: int
    """The most tasks that run on one node at a time and share its memory."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to."""

    folder: TaskFolder
    """The folder of the tasks."""
    nodes: Sequence[Mapping[str, float]]
    """The resources of each node, as Ray names them."""

    def slots(self, threads: int | None = None) -> int:
        """The number of tasks that run at a time.

        Args:
            threads: the CPU threads of each; None for all of a node's.

        Raises:
            ConfigError: no task can run.
        """
        return slots_of(self.nodes, threads)[1]

    def together(self, threads: int | None = None) -> int:
        """The most tasks that run on one node at a time. Arguments and errors are those of `slots`."""
        return slots_of(self.nodes, threads)[0].together

    def each(
        self,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        names: Sequence[str],
        done: Done,
        *,
        threads: int | None = None,
    ) -> None:
        """Call a function with each argument on the cluster, and `done` with each result as it comes.

        Args:
            function: a function in a module of veneer, which the nodes import.
            arguments: one for each task.
            names: the names of the tasks in messages.
            done: called with each task that has ended.
            threads: the CPU threads of each; None for all of a node's.

        Raises:
            ConfigError: no node has this many threads.
            Interrupted: a signal came; no task is left running.
        """
        import ray

        slot, _ = slots_of(self.nodes, threads)
        begun = ray.remote(_carried_out).options(
            num_cpus=slot.cpus, num_gpus=slot.gpus, max_retries=ATTEMPTS, scheduling_strategy="SPREAD"
        )
        waiting = [begun.remote(self.folder, slot.threads, function, one) for one in arguments]
        numbers = {task: number for number, task in enumerate(waiting)}
        with deferred(notice="stopping the tasks on the cluster"):
            try:
                while waiting and not stop_signalled():
                    ended, waiting = ray.wait(waiting, num_returns=1, timeout=POLL)
                    for task in ended:
                        done(numbers[task], _result(task, names[numbers[task]]))
            finally:
                for task in waiting:
                    ray.cancel(task, force=True)
            if waiting:
                raise Interrupted("the tasks on the cluster were stopped; the same command continues them")


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """Connect this process to a cluster within the block.

    Args:
        address: `ray://HOST:PORT`, `HOST:PORT`, or `ray`: the cluster that runs on this machine, or else one that is
            started here for the duration of the block.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--on uses a cluster through Ray: pip install 'veneer[ray]'") from error
    connected = ray.is_initialized()
    if not connected:
        _connect(address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield Cluster(TaskFolder(Path.cwd(), version("veneer")), nodes)
    finally:
        if not connected:
            ray.shutdown()


def _connect(address: str) -> None:
    """Connect this process to a cluster.

    Raises:
        ConfigError: it cannot be reached.
    """
    import ray

    if address != LOCAL:
        _refuse_unreachable(address)
    try:
        with _own_sigterm():
            ray.init(
                address=None if address == LOCAL else address,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
    # Ray raises a plain Exception where a node does not start in time.
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise ConfigError(f"the cluster {address} cannot be used: {reason.splitlines()[0]}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Allow another handler for SIGTERM within the block, and restore the original one after it. Ray sets one in Python
    and one in C++, which aborts the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _refuse_unreachable(address: str) -> None:
    """Refuse an address that does not answer: Ray itself would try for minutes.

    Raises:
        ConfigError: it is not an address, or does not answer.
    """
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--on {address}: give ray, HOST:PORT or {CLIENT}HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the cluster {address} cannot be reached: {error}; `ray start --head` prints the address of a cluster"
        ) from error


def slots_of(nodes: Sequence[Mapping[str, float]], threads: int | None) -> tuple[TaskResources, int]:
    """The resources of a task on these nodes, and how many tasks run at a time.

    A task gets a GPU if there are any; otherwise the threads that it needs, or the cores of a whole node, as the
    command would on one machine. Nodes without either, such as a head that only manages, compute nothing.

    Args:
        nodes: the resources of each node, as Ray names them.
        threads: the CPU threads of a task; None for all of a node's.

    Raises:
        ConfigError: no node can compute.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if gpus:
        of_one = min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1)
        together = max(int(node.get("GPU", 0)) for node in nodes)
        return TaskResources(0.0, 1.0, threads or max(1, of_one), together), gpus
    if not cores:
        raise ConfigError("the cluster has no node with a CPU or a GPU for tasks")
    of_one = threads or min(cores)
    slots = sum(number // of_one for number in cores)
    if not slots:
        raise ConfigError(
            f"compute.threads is {of_one} and no node of the cluster has more than {max(cores)} CPUs; give fewer"
        )
    return TaskResources(float(of_one), 0.0, of_one, max(cores) // of_one), slots


def _carried_out(folder: TaskFolder, threads: int, function: Callable[[Any], Any], argument: Any) -> Any:
    """Run a task on its node."""
    torch.set_num_threads(threads)
    with folder.entered():
        return function(argument)


def _result(task: Any, name: str) -> Any | VeneerError:
    """The return value of a task, or the error that it refused with.

    Raises:
        Exception: a fault of the program, as raised on the node.
    """
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VeneerError):
            return error.cause
        raise
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()
        return RankLost(
            f"{name}: its worker or node was lost {ATTEMPTS + 1} times ({type(error).__name__}"
            f"{': ' + said[0] if said else ''}); the same command starts it again"
        )
