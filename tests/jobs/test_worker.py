"""Workers carry jobs out whatever ends, and whoever ends it: no job is lost, and no step is made twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.models.tiny import tree
from helpers.processes.job_workers import PLAY, Workers, becomes, kill, played, queue_of, status, wait_for, workers
from helpers.run_folders.played_runs import chain
from helpers.support import block_writing
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobStatus
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore
from veneer.jobs.worker import DELETED_FOLDER_ERROR, Worker, job_memory, worker_lock, worker_runs
from veneer.run_records.find import open_run
from veneer.runtime.posix import lock_patiently


@pytest.fixture(scope="module")
def started() -> Iterator[Workers]:
    with workers() as found:
        yield found


def steps_of(queue: JobQueue, job: Job) -> list[int]:
    path = queue.root / job.id
    return open_run(path)[1].steps.tolist() if (path / "events.jsonl").is_file() else []


def process_of(queue: JobQueue, job: Job) -> int | None:
    """The process that trains a job, by the mark in its lock."""
    try:
        found: int = json.loads((queue.root / job.id / ".lock").read_text())["pid"]
    except (OSError, ValueError):
        return None
    return found


def undisturbed(queue: JobQueue, job: Job, steps: int = 20) -> None:
    assert (queue.root / job.id / "adapter.txt").read_text() == chain(steps)
    assert steps_of(queue, job) == list(range(1, steps + 1))


def test_jobs_are_carried_out_in_the_order_of_the_queue(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    jobs = [played(queue, 3, seconds=0) for _ in range(3)]
    queue.prioritise(jobs[2].id, 5)
    started.start(tmp_path)
    done = [becomes(queue, job, JobStatus.SUCCEEDED) for job in jobs]
    assert [done[place].finished_at for place in (2, 0, 1)] == sorted(one.finished_at or 0 for one in done)
    for job in jobs:
        undisturbed(queue, job, 3)


def test_a_job_pauses_goes_on_and_is_cancelled(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 500, seconds=0.02)
    started.start(tmp_path)
    wait_for(lambda: len(steps_of(queue, job)) > 4)
    queue.pause(job.id)
    becomes(queue, job, JobStatus.PAUSED)
    reached = steps_of(queue, job)
    time.sleep(0.2)
    assert steps_of(queue, job) == reached
    queue.resume(job.id)
    wait_for(lambda: len(steps_of(queue, job)) > len(reached) + 2)
    queue.cancel(job.id)
    ended = becomes(queue, job, JobStatus.CANCELLED)
    assert ended.finished_at is not None
    assert steps_of(queue, job) == list(range(1, steps_of(queue, job)[-1] + 1))
    assert queue.cancel(job.id) is None


def test_a_job_that_goes_on_before_its_pause_has_come_is_carried_out(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 4, seconds=0.5)
    started.start(tmp_path)
    wait_for(lambda: len(steps_of(queue, job)) == 1)
    queue.pause(job.id)
    time.sleep(0.1)  # the worker asks the process, whose step is longer
    queue.resume(job.id)
    becomes(queue, job, JobStatus.SUCCEEDED)
    undisturbed(queue, job, 4)


def test_a_job_that_fails_says_why_and_the_next_one_is_carried_out(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    failing, next_one = played(queue, error="there are no rows in it"), played(queue, 2, seconds=0)
    started.start(tmp_path)
    becomes(queue, next_one, JobStatus.SUCCEEDED)
    found = becomes(queue, failing, JobStatus.FAILED)
    assert found.error == "there are no rows in it"


def test_a_process_that_is_killed_at_one_step_again_and_again_fails_its_job(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 20, suicide=2, seconds=0)
    started.start(tmp_path)
    found = becomes(queue, job, JobStatus.FAILED)
    assert "killed 5 times in a row after step 2" in (found.error or "")


def test_a_killed_worker_leaves_its_run_going_and_the_next_one_finds_it(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 60, seconds=0.02)
    first = started.start(tmp_path)
    wait_for(lambda: len(steps_of(queue, job)) > 3)
    process = process_of(queue, job)
    kill(first)
    wait_for(lambda: not worker_runs(tmp_path, "auto"))
    second = started.start(tmp_path)
    assert len(steps_of(queue, job)) < 60
    assert process_of(queue, job) == process
    found = becomes(queue, job, JobStatus.SUCCEEDED)
    assert found.attempts == 1
    undisturbed(queue, job, 60)
    # The one that was found listens too.
    other = played(queue, 500, seconds=0.02)
    wait_for(lambda: len(steps_of(queue, other)) > 3)
    kill(second)
    wait_for(lambda: not worker_runs(tmp_path, "auto"))
    started.start(tmp_path)
    queue.cancel(other.id)
    becomes(queue, other, JobStatus.CANCELLED)


def test_a_worker_that_is_asked_to_end_puts_its_job_back(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 60, seconds=0.02)
    first = started.start(tmp_path)
    wait_for(lambda: len(steps_of(queue, job)) > 3)
    kill(first, signal.SIGTERM)
    becomes(queue, job, JobStatus.QUEUED)
    wait_for(lambda: not worker_runs(tmp_path, "auto"))
    assert json.loads(worker_lock(tmp_path, "auto").read_text())["pid"] == first
    started.start(tmp_path)
    becomes(queue, job, JobStatus.SUCCEEDED)
    undisturbed(queue, job, 60)


def test_a_device_has_one_worker(tmp_path: Path, started: Workers) -> None:
    queue = queue_of(tmp_path)
    for _ in range(3):
        started.start(tmp_path)
    jobs = [played(queue, 20) for _ in range(3)]
    for job in jobs:
        assert becomes(queue, job, JobStatus.SUCCEEDED).attempts == 1
        undisturbed(queue, job)


def test_what_does_not_fit_waits_and_says_so_while_smaller_ones_go(tmp_path: Path) -> None:
    queue, room = queue_of(tmp_path), [10**9]
    large = queue.create({"train": {}}, {}, peak=2 * 10**9)
    small = queue.create({"train": {}}, {}, peak=10**8)
    worker = Worker(tmp_path, SqliteStore(tmp_path), room=lambda device: room[0])
    claimed = worker._next()
    assert claimed is not None
    assert claimed.id == small.id
    found = queue.get(large.id)
    assert found is not None
    assert found.waiting == "its plan needs 2,000 MB, but only 1,000 MB are free now"
    assert worker._next() is None
    room[0] = 3 * 10**9
    claimed = worker._next()
    assert claimed is not None
    assert (claimed.id, claimed.waiting) == (large.id, None)


def test_a_worker_of_a_card_takes_jobs_of_any_card_and_leaves_those_of_other_devices(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    other, any_card = (queue.create({"compute": {"device": device}}, {}) for device in ("cuda:1", "cuda"))
    claimed = Worker(tmp_path, SqliteStore(tmp_path), "cuda:0")._next()
    assert claimed is not None
    assert claimed.id == any_card.id
    found = queue.get(other.id)
    assert found is not None
    assert found.waiting == "it waits for the device cuda:1"


@pytest.mark.parametrize(("limit", "expected"), [(None, 7_000), (9_000, 7_000), (5_000, 5_000)])
def test_a_job_on_a_gpu_waits_for_no_main_memory(
    limit: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan was made against the card's memory, and a worker's job has its card to itself."""
    monkeypatch.setattr("veneer.jobs.worker.memory", lambda: (10_000, 7_000))
    monkeypatch.setattr("veneer.jobs.worker.memory_limit", lambda: limit)
    assert job_memory("cuda:0") is None
    assert job_memory("auto") == job_memory("cpu") == expected


def test_this_machine_has_free_memory() -> None:
    free = job_memory("cpu")
    assert free is None or free > 0


def killed_at_random(root: Path, started: Workers, kills: int, seed: int) -> None:
    """Jobs go through whatever processes are killed at random instants: workers, and what trains."""
    source, queue = random.Random(seed), queue_of(root)
    jobs = [played(queue, 20, seconds=0.005) for _ in range(3)]
    begun = [started.start(root)]
    for _ in range(kills):
        time.sleep(source.uniform(0.0, 0.15))
        if source.random() < 0.5:
            # All of them: on a busy machine one that had no lock yet may have taken it before the one that followed.
            while begun:
                kill(begun.pop())
            wait_for(lambda: not worker_runs(root, "auto"))  # It holds its lock until it is gone.
        else:
            process = next((process_of(queue, job) for job in jobs if status(queue, job) is JobStatus.RUNNING), None)
            if process is not None:
                kill(process)
        if source.random() < 0.1:
            for file in (root / ".studio").glob("jobs.sqlite*"):
                file.unlink(missing_ok=True)  # SQLite removes its own where the last connection ends
        if not worker_runs(root, "auto"):
            begun.append(started.start(root))
        jobs = [job if status(queue, job) is not JobStatus.SUCCEEDED else played(queue, 20) for job in jobs]
    wait_for(lambda: worker_runs(root, "auto") or bool(started.start(root)))
    for folder in sorted(root.glob("ftjob-*")):
        job = JobFolder(folder).read()
        assert job is not None
        becomes(queue, job, JobStatus.SUCCEEDED, 60)
        undisturbed(queue, job)


def test_kills_at_random_instants_lose_no_job_and_no_step(tmp_path: Path, started: Workers) -> None:
    killed_at_random(tmp_path, started, 25, seed=1)


@pytest.mark.slow
def test_kills_at_two_hundred_instants_lose_no_job_and_no_step(tmp_path: Path, started: Workers) -> None:
    killed_at_random(tmp_path, started, 200, seed=2)


def real_job(queue: JobQueue, model: Path, data: Path) -> Job:
    settings = {
        "model": str(model), "method": "lora", "data": {"file": str(data)}, "lora": {"rank": 4},
        "train": {"steps": 40, "save_every": 5, "learning_rate": 0.01, "examples_per_step": 4},
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    }  # fmt: skip
    return queue.create(settings, {})


@pytest.mark.slow
def test_a_run_whose_worker_and_process_were_killed_has_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, started: Workers
) -> None:
    queue = queue_of(tmp_path)
    calm, disturbed = (real_job(queue, tiny_model, tiny_data) for _ in range(2))
    first = started.start(tmp_path, play=False)
    becomes(queue, calm, JobStatus.SUCCEEDED, 60)
    wait_for(lambda: len(steps_of(queue, disturbed)) > 7, 60)
    kill(first)
    process = process_of(queue, disturbed)
    assert process is not None
    kill(process)
    wait_for(lambda: not worker_runs(tmp_path, "auto"))
    started.start(tmp_path, play=False)
    becomes(queue, disturbed, JobStatus.SUCCEEDED, 60)
    ours, theirs = (tree(tmp_path / job.id)["adapter_model.safetensors"] for job in (calm, disturbed))
    assert ours == theirs
    assert steps_of(queue, disturbed) == list(range(1, 41))


def test_a_disk_without_room_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 2)
    folder = tmp_path / job.id
    worker = Worker(tmp_path, SqliteStore(tmp_path), command=["false"])
    monkeypatch.setattr("veneer.jobs.worker.RETRY_WRITE_SECONDS", 0.05)
    blocked = block_writing(folder / "job.json", monkeypatch)
    thread = threading.Thread(target=worker.work)
    thread.start()
    assert blocked.tried.wait(30)
    assert status(queue, job) is JobStatus.QUEUED
    blocked.end()
    wait_for(lambda: status(queue, job) is not JobStatus.QUEUED)
    worker.stop.set()
    thread.join()


def test_a_job_whose_folder_is_deleted_is_stopped_and_says_so(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = played(queue)
    asked = tmp_path / "asked"
    program = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(asked)!r}).touch(), sys.exit(1)))
pathlib.Path({str(tmp_path / job.id)!r}, "begun").touch()
time.sleep(60)
"""
    worker = Worker(tmp_path, SqliteStore(tmp_path), command=[sys.executable, "-c", program])
    thread = threading.Thread(target=worker.work)
    thread.start()
    wait_for((tmp_path / job.id / "begun").exists)
    shutil.rmtree(tmp_path / job.id)
    found = becomes(queue, job, JobStatus.FAILED)
    worker.stop.set()
    thread.join()
    assert found.error == DELETED_FOLDER_ERROR
    assert asked.exists()


def test_a_job_whose_worker_was_killed_and_whose_folder_was_deleted_ends_and_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, store = queue_of(tmp_path), SqliteStore(tmp_path)
    left, waiting = played(queue, 2), played(queue, 2)
    gone = Worker(tmp_path, store, "cuda:7")
    claimed = store.claim(gone.owner, gone.device, lambda one: None, gone._start)
    assert claimed is not None
    assert claimed.id == left.id
    worker = Worker(tmp_path, store, command=[sys.executable, "-S", str(PLAY)])
    monkeypatch.setattr("veneer.jobs.worker.ABANDONED_SECONDS", 0.0)
    # The folder goes after the worker's own look at its start.
    monkeypatch.setattr(SqliteStore, "reconcile", lambda store: shutil.rmtree(tmp_path / left.id))
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        assert becomes(queue, left, JobStatus.FAILED).error == DELETED_FOLDER_ERROR
        becomes(queue, waiting, JobStatus.SUCCEEDED)
    finally:
        worker.stop.set()
        thread.join()


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_of_a_device_that_has_no_worker_any_more_goes_on_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 2)
    store = SqliteStore(tmp_path)
    gone = Worker(tmp_path, store, "cuda:7")
    assert store.claim(gone.owner, gone.device, lambda one: None, gone._start) is not None
    worker = Worker(tmp_path, store, command=[sys.executable, "-S", str(PLAY)])
    assert worker._left_over() is None
    monkeypatch.setattr("veneer.jobs.worker.ABANDONED_SECONDS", 0.0)
    if kept:
        with worker_lock(tmp_path, "cuda:7").open("w") as file:
            lock_patiently(file)
            assert worker._left_over() is None
        return
    thread = threading.Thread(target=worker.work)
    thread.start()
    becomes(queue, job, JobStatus.SUCCEEDED)
    worker.stop.set()
    thread.join()
