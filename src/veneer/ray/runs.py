"""The points of a sweep and the runs of a comparison, each as a task on a cluster.

A task that is restarted because its worker or node was lost resumes from the newest checkpoint of its run. So each run
produces the bytes that it would on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from veneer.comparison.order import Order
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.run import carry_out, compare_shared
from veneer.config import RunConfig
from veneer.errors import VeneerError, listing
from veneer.events import RunDone, RunFailed, Stage, Subscriber, ignore
from veneer.generation.share import WHOLE_SHARE
from veneer.io.locks import LOCK
from veneer.ray.cluster import Cluster, cluster
from veneer.runtime.posix import is_locked
from veneer.sweeps.grid import Point
from veneer.sweeps.outcome import SweepOutcome
from veneer.sweeps.run import JointTrainer, sweep_shared

PATIENCE = 60.0
"""Seconds that a task waits for the process that held its folder before, and that may be about to end."""
LOOK = 0.2
"""Seconds between two checks whether it has ended."""


def sweep_on(
    address: str,
    values: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    output: Path,
    emit: Subscriber,
) -> list[SweepOutcome]:
    """Train every point of a grid like `veneer.sweeps.run.sweep`, each as a task on a cluster.

    Args:
        address: the address of the cluster (`veneer.ray.cluster.cluster`).
        values: the settings of all points, without `output`.
        grid: the values of each varied setting.
        output: the sweep's folder, which all nodes see.
        emit: receives every event.

    Raises:
        ConfigError: the cluster cannot be used.
        Interrupted: a signal came; the table holds the results so far.
        VeneerError: points could not be trained; their names and reasons are in the message, and all others are
            trained.
    """
    with cluster(address) as nodes:
        outcomes = sweep_shared(values, grid, output, WHOLE_SHARE, TaskTrainer(nodes), emit)
    assert outcomes is not None, "a single process makes the table"
    return outcomes


def compare_on(address: str, request: CompareRequest, emit: Subscriber) -> CompareResult:
    """Compare like `veneer.comparison.run.compare`, each run as a task on a cluster.

    Args:
        address: the address of the cluster (`veneer.ray.cluster.cluster`).
        request: the comparison; its output is a folder that all nodes see.
        emit: receives every event.

    Raises:
        VeneerError: an error of `compare`, or the cluster cannot be used.
    """
    with cluster(address) as nodes:
        result = compare_shared(request, WHOLE_SHARE, "auto", emit, carrier=TaskCarrier(nodes))
    assert result is not None, "a single process makes the result"
    return result


@dataclass(frozen=True, slots=True)
class TaskTrainer:
    """Trains each point of a sweep as a task on a cluster (`veneer.sweeps.run.PointTrainer`)."""

    nodes: Cluster

    def __call__(self, points: Sequence[Point], emit: Subscriber, ended: Callable[[Sequence[Point]], None]) -> bool:
        """See `PointTrainer`.

        Raises:
            VeneerError: points could not be trained; all others are.
        """
        failed: list[tuple[str, VeneerError]] = []
        threads = _threads(point.config for point in points)
        with Stage(emit, _on(self.nodes, threads, "training"), total=len(points), unit="points") as stage:

            def done(number: int, found: Any) -> None:
                if isinstance(found, VeneerError):
                    failed.append((points[number].name, found))
                    emit(RunFailed(run=points[number].name, message=str(found)))
                ended([points[number]])
                stage.advance(1, points[number].name)

            together = partial(train_point, together=self.nodes.together(threads))
            self.nodes.each(together, points, [point.name for point in points], done, threads=threads)
        if failed:
            # An error from the planning of a point already begins with its name.
            reasons = listing(f"{name}: {str(error).removeprefix(f'{name}: ')}" for name, error in failed)
            raise VeneerError(f"{len(failed)} of {len(points)} points could not be trained:\n{reasons}")
        return False


@dataclass(frozen=True, slots=True)
class TaskCarrier:
    """Runs each run of a comparison as a task on a cluster (`veneer.comparison.run.Carrier`)."""

    nodes: Cluster

    def __call__(self, orders: Sequence[Order], emit: Subscriber) -> list[str | None]:
        """See `veneer.comparison.run.Carrier`."""
        refusals: list[str | None] = [None] * len(orders)
        threads = _threads(order.config for order in orders)
        with Stage(emit, _on(self.nodes, threads, "running"), total=len(orders), unit="runs") as stage:

            def done(number: int, found: Any) -> None:
                name = orders[number].folder.name
                refusals[number] = str(found) if isinstance(found, VeneerError) else found
                refusal = refusals[number]
                emit(RunDone(run=name, before=False) if refusal is None else RunFailed(run=name, message=refusal))
                stage.advance(1, name)

            names = [order.folder.name for order in orders]
            placed = [replace(order, processes=self.nodes.together(threads)) for order in orders]
            self.nodes.each(carry_out_order, placed, names, done, threads=threads)
        return refusals


def train_point(point: Point, together: int = 1) -> None:
    """Train a point of a sweep, or resume it; a task.

    Args:
        point: the point.
        together: the most tasks that share the node's memory.

    Raises:
        VeneerError: it cannot be trained. If it diverged, its folder says so.
    """
    _await_folder(Path(point.config.output))
    JointTrainer(processes=together)([point], ignore, lambda points: None)


def carry_out_order(order: Order) -> str | None:
    """Run one run of a comparison, or resume it. Returns why it could not be done. A task."""
    _await_folder(order.folder)
    return carry_out(order, ignore)


def _await_folder(folder: Path) -> None:
    """Wait for the process that holds the folder: the process of an earlier attempt may be about to end."""
    end = time.monotonic() + PATIENCE
    while is_locked(folder / LOCK) and time.monotonic() < end:
        time.sleep(LOOK)


def _threads(configs: Iterable[RunConfig]) -> int | None:
    """The most CPU threads that any run needs; None if one leaves them open."""
    asked = [config.compute.threads for config in configs]
    return max((number for number in asked if number is not None), default=None) if all(asked) else None


def _on(nodes: Cluster, threads: int | None, doing: str) -> str:
    slots = nodes.slots(threads)
    return f"{doing} on the cluster, {slots} at a time"
