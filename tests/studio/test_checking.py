"""What is looked at in the background is looked at to its end, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.processes.job_workers import becomes, queue_of, wait_for
from helpers.servers.studios import CPU, logged, studio
from helpers.support import block_writing
from veneer.errors import ModelError, OutputError
from veneer.jobs.job import Job, JobStatus
from veneer.jobs.queue import JobQueue
from veneer.studio.checking import Checking
from veneer.studio.files import FileStatus, FileStore


@pytest.fixture
def unlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[JobQueue, Job]:
    """A job that is still to be looked at, in its queue; what cannot be written is tried again soon."""
    monkeypatch.setattr("veneer.studio.checking.RETRY_WRITE_SECONDS", 0.02)
    queue = queue_of(tmp_path)
    return queue, queue.create({"model": "nothing"}, {}, status=JobStatus.VALIDATING)


def test_a_full_disk_delays_what_was_found_of_a_job_and_loses_nothing(
    unlooked: tuple[JobQueue, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, job = unlooked
    blocked = block_writing(tmp_path / job.id / "job.json", monkeypatch)
    checking = Checking(FileStore(tmp_path / "files"), queue)
    checking.check_job(job)
    assert blocked.tried.wait(30)
    assert queue.get(job.id) == job
    blocked.end()
    wait_for(lambda: [one.status for one in queue.jobs()] == [JobStatus.FAILED])
    checking.close()


def test_why_a_job_is_refused_names_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, model = tmp_path / "runs", tmp_path / "models" / "small"

    def broken(job: Job, root: Path) -> None:
        raise ModelError(f"{model}: has no weights; {root / 'made' / 'one'} was trained beside it")

    monkeypatch.setattr("veneer.studio.checking._checked", broken)
    queue = queue_of(root)
    job = queue.create({"model": str(model)}, {}, status=JobStatus.VALIDATING)
    checking = Checking(FileStore(tmp_path / "files"), queue)
    checking.check_job(job)
    failed = becomes(queue, job, JobStatus.FAILED)
    checking.close()
    assert failed.error == "small: has no weights; made/one was trained beside it"


def test_a_store_that_cannot_be_read_once_delays_the_look_at_a_job(
    unlooked: tuple[JobQueue, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, job = unlooked
    stored = queue.store.get
    failed: list[str] = []

    def full(name: str) -> Job | None:
        if not failed:
            failed.append(name)
            raise OutputError("jobs.sqlite: cannot be opened")
        return stored(name)

    monkeypatch.setattr(queue.store, "get", full)
    checking = Checking(FileStore(tmp_path / "files"), queue)
    checking.check_job(job)
    becomes(queue, job, JobStatus.FAILED)
    checking.close()
    assert failed == [job.id]


def test_an_error_that_nobody_has_foreseen_is_logged_and_ends_what_was_looked_at(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **more: object) -> None:
        raise ZeroDivisionError("a row of the user")

    for name in ("lint", "planned"):
        monkeypatch.setattr(f"veneer.studio.checking.{name}", broken)
    queue, files = queue_of(tmp_path), FileStore(tmp_path / "files")
    job = queue.create({"model": "m", "data": {"file": "f"}}, {}, status=JobStatus.VALIDATING)
    with files.new("rows.jsonl", "fine-tune") as (file, path):
        path.write_bytes(tiny_data.read_bytes())
    checking = Checking(files, queue)
    with logged() as messages:
        checking.begin()
        failed = becomes(queue, job, JobStatus.FAILED)
    checking.close()
    assert failed.error == "the check failed unexpectedly (ZeroDivisionError); the studio's log says where"
    found = files.get(file.id)
    assert found is not None
    assert (found.status, found.status_details) == (FileStatus.ERROR, failed.error)
    for said, name in zip(messages, (file.id, job.id), strict=True):
        assert said.startswith(f"ERROR: {name}: ZeroDivisionError in ")
        assert "a row of the user" not in said


def test_a_job_that_was_made_is_answered_for_where_the_pages_cannot_be_told_of_it(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OutputError("jobs.sqlite: cannot be opened")

    with studio(tmp_path / "runs", tiny_model) as opened:
        file = opened.client.files.create(file=tiny_data, purpose="fine-tune").id
        # Slots: the class is what is patched.
        monkeypatch.setattr("veneer.studio.watch.Watcher.look", lambda watcher: full())
        body = {"model": "model", "training_file": file, "veneer": {"settings": {**CPU, "train.steps": 1}}}
        made = opened.http.post("/v1/fine_tuning/jobs", json=body)
        assert made.status_code == 200
        assert opened.studio.queue.get(made.json()["id"]) is not None
        assert opened.client.fine_tuning.jobs.cancel(made.json()["id"]).status == "cancelled"


def test_a_job_that_is_paused_while_it_is_looked_at_keeps_its_rate_and_its_plan(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    with studio(tmp_path / "runs", tiny_model) as opened:
        opened.studio.workers.close()
        queue, settings = opened.studio.queue, {"data": {"file": str(tiny_data)}, "model": str(tiny_model)}
        settings |= {"method": "lora", "train": {"steps": 2, "learning_rate": 0.01}, "compute": {"device": "cpu"}}
        job = queue.create(settings, {"rate_multiplier": 3.0}, status=JobStatus.VALIDATING)
        assert opened.client.fine_tuning.jobs.pause(job.id).model_extra["veneer"]["status"] == "paused"  # type: ignore[index]
        opened.client.fine_tuning.jobs.resume(job.id)
        wait_for(lambda: [one.status for one in queue.jobs()] == [JobStatus.QUEUED])
        found = queue.get(job.id)
        assert found is not None
        assert found.settings["train"]["learning_rate"] == pytest.approx(0.03)
        assert found.peak is not None
        assert found.peak > 0
