"""A Ray cluster, and tasks on it whose results do not depend on where and how often they were begun.

A task is a plain function of veneer and one argument. Ray places it, and places it again where its worker or its node
has gone; what a task has written so far, it finds and goes on with. So all nodes must see one file system: every task
works in the folder in which the command was given.
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
"""The address that means the cluster which runs on this machine, or one that is started for the command."""
CLIENT = "ray://"
"""How an address of Ray's client server begins, for a driver that is not on the cluster's network."""
PATIENCE = 10.0
"""Seconds in which somebody must answer at an address."""
ATTEMPTS = 3
"""How often a task is begun again whose worker or node has gone."""
POLL = 0.2
"""Seconds between two looks at whether a signal came."""

Done = Callable[[int, "Any | VeneerError"], None]
"""Called with the number of a task that has ended, and with what it returned or the error that it refused with."""


@dataclass(frozen=True, slots=True)
class TaskFolder:
    """Where a task works, and by which version of veneer."""

    folder: Path
    version: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block the process is in the folder.

        Raises:
            ConfigError: this node has another version of veneer.
            OutputError: this node does not see the folder.
        """
        here = version("veneer")
        if here != self.version:
            raise ConfigError(
                f"a node of the cluster has veneer {here} and the command is of veneer {self.version}; install one "
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
    """What every task gets of a node."""

    cpus: float
    gpus: float
    threads: int
    """CPU threads that it computes with."""
    together: int
    """The most tasks that run on one node at a time, and share its memory."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to."""

    folder: TaskFolder
    """Where tasks work."""
    nodes: Sequence[Mapping[str, float]]
    """The resources of each node, as Ray names them."""

    def slots(self, threads: int | None = None) -> int:
        """How many tasks run at a time.

        Args:
            threads: CPU threads of each; None gives it all of a node's.

        Raises:
            ConfigError: none can run.
        """
        return slots_of(self.nodes, threads)[1]

    def together(self, threads: int | None = None) -> int:
        """How many tasks run on one node at a time, at most; arguments and errors as `slots`."""
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
            function: of a module of veneer, which the nodes import.
            arguments: one for each task.
            names: what the tasks are called in messages.
            done: called with each task that has ended.
            threads: CPU threads of each; None gives it all of a node's.

        Raises:
            ConfigError: no node has so many.
            Interrupted: a signal came; no task goes on.
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
                raise Interrupted("the tasks on the cluster were stopped; the same command goes on with them")


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """Within the block this process is connected to a cluster.

    Args:
        address: `ray://HOST:PORT`, `HOST:PORT`, or `ray`: the one that runs on this machine, or else one that is
            started here for as long as the block takes.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--on spreads over a cluster by Ray: pip install 'veneer[ray]'") from error
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
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the cluster {address} cannot be used: {str(error).strip().splitlines()[0]}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Within the block SIGTERM may get another handler; after it, it has its own again. Ray gives it one in Python and
    one in C++, which aborts the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _refuse_unreachable(address: str) -> None:
    """Refuse an address at which nobody answers: Ray itself would try for minutes.

    Raises:
        ConfigError: it is no address, or nobody answers there.
    """
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--on {address}: give ray, HOST:PORT or {CLIENT}HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the cluster {address} cannot be reached: {error}; `ray start --head` says where one listens"
        ) from error


def slots_of(nodes: Sequence[Mapping[str, float]], threads: int | None) -> tuple[TaskResources, int]:
    """What a task gets of these nodes, and how many run at a time.

    A task has a GPU where there are any; otherwise so many threads as it asks for, or the cores of a whole node, as the
    command would have on one machine. Nodes without either, like a head that only manages, compute nothing.

    Args:
        nodes: the resources of each, as Ray names them.
        threads: CPU threads of a task; None gives it all of a node's.

    Raises:
        ConfigError: there is nothing to compute on.
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
    """A task, on its node."""
    torch.set_num_threads(threads)
    with folder.entered():
        return function(argument)


def _result(task: Any, name: str) -> Any | VeneerError:
    """What a task returned, or the error that it refused with.

    Raises:
        Exception: a fault of the program, as it was raised on the node.
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
            f"{': ' + said[0] if said else ''}); the same command begins it again"
        )
