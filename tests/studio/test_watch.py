"""What is watched is told as it was at one look, whatever is read of it meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.processes.job_workers import queue_of, wait_for
from helpers.run_folders.run_logs import step_done, write_run
from helpers.servers.studios import logged
from veneer.errors import OutputError
from veneer.event_log import EventLog
from veneer.jobs.job import JobStatus
from veneer.jobs.sqlite_store import SqliteStore
from veneer.run_records.state import RunState
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


def test_a_look_that_fails_in_a_way_that_nobody_has_foreseen_is_said_and_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.studio.watch.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("veneer.studio.watch.RETRY_LOOK_SECONDS", 0.02)
    watcher = watching(tmp_path)
    watcher.start()
    with logged() as messages:
        with monkeypatch.context() as failing:
            failing.setattr("veneer.studio.watch.run_folders", lambda root: 1 / 0)
            wait_for(lambda: bool(messages))
        write_run(tmp_path / "run", 5)
        wait_for(lambda: [run.name for run in watcher.runs()] == ["run"])
    watcher.close()
    assert messages[0].startswith("ERROR: the look at the folder has failed: ZeroDivisionError in ")


def test_a_store_that_cannot_be_opened_once_is_said_and_watched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.studio.watch.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("veneer.studio.watch.RETRY_LOOK_SECONDS", 0.02)
    watcher = watching(tmp_path / "runs")
    watcher.start()
    stored = watcher.store.jobs
    failed: list[object] = []

    def full(*statuses: object) -> object:
        if len(failed) < 2:
            failed.append(statuses)
            raise OutputError("jobs.sqlite: cannot be opened: unable to open database file")
        return stored()

    with logged() as messages:
        monkeypatch.setattr(watcher.store, "jobs", full)
        wait_for(lambda: len(failed) == 2)
        job = queue_of(tmp_path / "runs").create({}, {})
        wait_for(lambda: [one.id for one in watcher.since(0).jobs] == [job.id])
    watcher.close()
    assert watcher.since(0).version > 0
    assert messages == ["WARNING: jobs.sqlite: cannot be opened: unable to open database file"] * 2


def test_a_job_whose_folder_is_deleted_is_none_any_more_and_the_pages_are_told(tmp_path: Path) -> None:
    watcher, queue = watching(tmp_path), queue_of(tmp_path)
    jobs = [queue.create({}, {}) for _ in range(4)]
    for job, status in zip(jobs, (JobStatus.SUCCEEDED, JobStatus.PAUSED, JobStatus.RUNNING), strict=False):
        queue.store.change(job.id, lambda one, now=status: replace(one, status=now))  # type: ignore[misc]
    watcher.look()
    seen = watcher.since(0).version
    for job in jobs[:3]:
        shutil.rmtree(tmp_path / job.id)
    watcher.look()
    changes = watcher.since(seen)
    assert sorted(changes.removed_jobs) == sorted(job.id for job in jobs[:2])
    # What is running is its worker's to stop and to end.
    assert {job.id for job in queue.jobs()} == {job.id for job in jobs[2:]}
    assert watcher.since(0).removed_jobs == watcher.since(changes.version).removed_jobs == []
    watcher.look()
    assert watcher.since(0).version == changes.version


def test_a_job_that_is_known_as_ended_is_known_with_its_run_as_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, queue = watching(tmp_path), queue_of(tmp_path)
    job = queue.create({}, {})
    write_run(tmp_path / job.id, 5, reason=None)
    stored = watcher.store.jobs

    def ended(*statuses: JobStatus) -> object:
        write_run(tmp_path / job.id, 5)
        watcher.store.change(job.id, lambda one: replace(one, status=JobStatus.SUCCEEDED))
        return stored(*statuses)

    monkeypatch.setattr(watcher.store, "jobs", ended)
    assert not watcher.knows([job])
    watcher.look()
    assert not watcher.knows([job])
    (known,) = watcher.since(0).jobs
    assert known.status is JobStatus.SUCCEEDED
    assert watcher.knows([known])
    run = watcher.run(job.id)
    assert run is not None
    assert run.record.state is RunState.FINISHED
