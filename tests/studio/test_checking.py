"""What is looked at in the background is looked at to its end, whatever happens meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from job_workers import wait_for
from studios import studio
from veneer.jobs.job import JobStatus
from veneer.jobs.queue import JobQueue
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.checking import Checking
from veneer.studio.files import FileStore


def test_a_full_disk_delays_what_was_found_of_a_job_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.studio.checking.RETRY_SECONDS", 0.02)
    queue = JobQueue(tmp_path, SqliteStore(tmp_path))
    job = queue.create({"model": "nothing"}, {}, status=JobStatus.VALIDATING)
    # A folder in the place of the file's temporary name is refused as a full disk refuses.
    blocked = tmp_path / job.id / f".partial-{os.getpid()}-job.json"
    blocked.mkdir()
    checking = Checking(FileStore(tmp_path / "files"), queue)
    checking.check_job(job)
    time.sleep(0.2)
    assert queue.get(job.id) == job
    blocked.rmdir()
    wait_for(lambda: [one.status for one in queue.jobs()] == [JobStatus.FAILED])
    checking.close()


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
