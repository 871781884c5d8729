"""What is watched is told as it was at one look, whatever is read of it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from run_logs import step_done, write_run
from veneer.event_log import EventLog
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.watch import Watcher


def watching(root: Path) -> Watcher:
    root.mkdir(exist_ok=True)
    return Watcher(root, SqliteStore(root))


@contextmanager
def being_drawn(watcher: Watcher, name: str) -> Iterator[None]:
    """Holds the columns of a run as numpy does while it makes a curve of them."""
    run = watcher.run(name)
    assert run is not None
    held = [np.frombuffer(column) for column in (run.log.steps, *run.log.columns.values())]
    yield
    assert {len(column) for column in held} == {len(run.log.steps)} == {run.record.step}


def test_a_run_that_grows_while_its_curves_are_drawn_goes_on_being_watched(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 5, reason=None)
    watcher = watching(tmp_path)
    watcher.look()
    seen = watcher.since(0).version
    with being_drawn(watcher, "run"), EventLog(folder / "events.jsonl") as log:
        log.emit(step_done(6))
        watcher.look()
    (changed,) = watcher.since(seen).runs
    assert changed.record.step == 6
    assert changed.log.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert watcher.since(watcher.since(0).version).runs == []
