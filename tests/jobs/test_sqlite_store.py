"""The store of jobs: the folders are the truth, whatever becomes of the file."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.job_workers import queue_of
from veneer.errors import OutputError
from veneer.jobs import sqlite_store
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobStatus, job_of
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore


def test_a_store_that_is_deleted_or_damaged_is_made_again_from_the_folders(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    jobs = [queue.create({"model": str(number)}, {"metadata": {"a": "b"}}) for number in range(3)]
    queue.cancel(jobs[1].id)
    before = queue.jobs()
    for damage in (lambda file: file.unlink(), lambda file: file.write_bytes(b"no database" * 1000)):
        for file in (tmp_path / ".studio").glob("jobs.sqlite-*"):
            file.unlink()
        damage(tmp_path / ".studio" / "jobs.sqlite")
        assert queue.jobs() == before
        assert [job.status for job in queue.store.jobs(JobStatus.CANCELLED)] == [JobStatus.CANCELLED]


def test_jobs_of_other_states_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker asks for those that run four times a second, beside however many that have ended."""
    queue = queue_of(tmp_path)
    jobs = [queue.create({"model": str(number)}, {}) for number in range(3)]
    queue.cancel(jobs[1].id)
    read: list[str] = []

    def noted(values: Mapping[str, Any]) -> Job:
        read.append(values["id"])
        return job_of(values)

    monkeypatch.setattr(sqlite_store, "job_of", noted)
    assert queue.store.jobs(JobStatus.RUNNING) == []
    assert [job.id for job in queue.store.jobs(JobStatus.CANCELLED, JobStatus.RUNNING)] == [jobs[1].id]
    assert read == [jobs[1].id]
    assert [job.id for job in queue.store.jobs()] == [job.id for job in jobs]


def filled(root: Path, count: int) -> JobQueue:
    """A queue with jobs in a file of many pages, and nothing beside it."""
    queue = queue_of(root)
    jobs = [
        Job(id=f"ftjob-{n}", created_at=float(n), settings={"model": "m"}, details={"rows": "r" * 6_000})
        for n in range(count)
    ]
    for job in jobs:
        JobFolder(root / job.id).write(job)
    assert len(queue.jobs()) == count
    return queue


def overwritten(root: Path, place: slice) -> None:
    """The pages of a store with bytes of 0xFF in a place of them."""
    file = root / ".studio" / "jobs.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("pragma wal_checkpoint(truncate)")
        size = database.execute("pragma page_size").fetchone()[0]
    content = bytearray(file.read_bytes())
    at = slice(place.start * size, len(content) if place.stop is None else place.stop * size)
    content[at] = b"\xff" * len(content[at])
    file.write_bytes(content)


@pytest.mark.parametrize("place", [slice(3, None), slice(1, None), slice(1, 2), slice(10, 60)])
def test_a_store_that_is_damaged_behind_its_header_is_made_again_within_the_call(tmp_path: Path, place: slice) -> None:
    queue = filled(tmp_path, 40)
    before = queue.jobs()
    for call in (queue.jobs, queue.store.reconcile, lambda: queue.prioritise(before[20].id, 0)):
        overwritten(tmp_path, place)
        call()
        assert queue.jobs() == before
        made = queue.create({}, {})
        assert queue.cancel(made.id) is not None
        shutil.rmtree(tmp_path / made.id)
        queue.store.reconcile()
    assert (tmp_path / ".studio" / "jobs.damaged").is_file()


def test_a_waiting_job_whose_folder_was_deleted_is_not_carried_out(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    deleted, other = (queue.create({"model": "m"}, {}) for _ in range(2))
    shutil.rmtree(tmp_path / deleted.id)
    claimed = queue.store.claim("me", "cpu", lambda job: "wait", lambda job: None)
    assert claimed is None
    claimed = queue.store.claim("me", "cpu", lambda job: None, lambda job: replace(job, status=JobStatus.RUNNING))
    assert claimed is not None
    assert claimed.id == other.id
    assert queue.get(deleted.id) is None
    assert not (tmp_path / deleted.id).exists()


@pytest.mark.parametrize("document", ["{}", "no json", "[1]", b"\xff\xfe\xfd"])
def test_a_document_that_is_none_of_a_job_is_damage(tmp_path: Path, document: str | bytes) -> None:
    queue = filled(tmp_path, 3)
    before = queue.jobs()
    with closing(sqlite3.connect(tmp_path / ".studio" / "jobs.sqlite")) as database:
        database.execute("update jobs set document = cast(? as text) where id = 'ftjob-1'", (document,))
        database.commit()
    assert queue.get("ftjob-1") == before[1]
    assert queue.jobs() == before


def test_who_finds_a_damage_that_another_one_has_mended_sets_nothing_aside(tmp_path: Path) -> None:
    queue = filled(tmp_path, 40)
    file = tmp_path / ".studio" / "jobs.sqlite"
    first: list[int] = []
    overwritten(tmp_path, slice(3, None))
    store = SqliteStore(tmp_path)

    def read(database: sqlite3.Connection) -> int:
        if not first:
            assert len(queue.jobs()) == 40
            first.append(file.stat().st_ino)
        rows = database.execute("select document from jobs").fetchall()
        return len(rows)

    assert store._with(read) == 40
    assert first == [file.stat().st_ino]


def test_what_was_written_into_a_folder_and_not_into_the_store_is_taken_over(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {})
    JobFolder(tmp_path / job.id).write(replace(job, status=JobStatus.PAUSED))
    found = queue.get(job.id)
    assert found is not None
    assert found.status is JobStatus.QUEUED
    queue.store.reconcile()
    found = queue.get(job.id)
    assert found is not None
    assert found.status is JobStatus.PAUSED
    assert job_of(found.to_json()) == found


def test_who_opens_a_store_while_another_one_makes_it_waits(tmp_path: Path) -> None:
    file = tmp_path / ".studio" / "jobs.sqlite"
    file.parent.mkdir()
    maker = sqlite3.connect(file, isolation_level=None)
    maker.execute("begin immediate")
    store = SqliteStore(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(store.jobs)
        with pytest.raises(TimeoutError):
            found.result(timeout=0.2)
        maker.execute("commit")
        assert found.result(timeout=10) == []
    maker.close()


def test_a_change_whose_folder_cannot_be_written_is_none(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {})
    file = JobFolder(tmp_path / job.id).job_file
    file.unlink()
    file.mkdir()
    with pytest.raises(OutputError):
        queue.cancel(job.id)
    found = queue.get(job.id)
    assert found is not None
    assert found.status is JobStatus.QUEUED


def test_a_job_whose_folder_cannot_be_written_holds_up_no_other(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    blocked, other = (queue.create({"model": "x"}, {}) for _ in range(2))
    folder, aside = tmp_path / blocked.id, tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("a file in the place of the folder", encoding="utf-8")

    def claim() -> Job | None:
        return queue.store.claim("me", "cpu", lambda job: None, lambda job: replace(job, status=JobStatus.RUNNING))

    claimed = claim()
    assert claimed is not None
    assert claimed.id == other.id
    found = queue.get(blocked.id)
    assert found is not None
    assert (found.status, found.attempts) == (JobStatus.QUEUED, 0)
    assert found.waiting == "its folder cannot be written: File exists"
    with pytest.raises(OutputError, match="cannot be written"):
        claim()
    folder.unlink()
    aside.rename(folder)
    claimed = claim()
    assert claimed is not None
    assert claimed.id == blocked.id


def test_two_workers_never_get_one_job(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    jobs = {queue.create({}, {}).id for _ in range(20)}
    claimed: list[str] = []

    def work(owner: str) -> None:
        store = SqliteStore(tmp_path)
        while True:
            job = store.claim(owner, "cpu", lambda one: None, lambda one: replace(one, status=JobStatus.RUNNING))
            if job is None:
                return
            claimed.append(job.id)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)
    assert len(queue.store.leases()) == 20


def test_a_clock_that_jumps_ages_no_lease_and_moves_nobody_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    queue = queue_of(tmp_path)
    queue._clock = lambda: now[0]  # type: ignore[method-assign, assignment]
    first = queue.create({}, {})
    now[0] = -5_000.0
    second = queue.create({}, {})
    assert [job.id for job in queue.waiting()] == [first.id, second.id]
    monkeypatch.setattr("time.time", lambda: 1e12)
    queue.store.claim("w", "cpu", lambda one: None, lambda one: replace(one, status=JobStatus.RUNNING))
    (lease,) = queue.store.leases()
    assert 0 <= lease.age < 5
    assert queue.store.beat(first.id, "w")
    assert not queue.store.beat(first.id, "another")
    # The machine was started anew: whatever the clock says, the worker is gone.
    monkeypatch.setattr(sqlite_store, "_boot", lambda: "another start")
    assert queue.store.leases()[0].age == float("inf")
    queue.store.release(first.id, "w")
    assert queue.store.leases() == []
