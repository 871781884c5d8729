"""What becomes of a job when its process has ended, by what stands in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.run_folders.run_logs import write_run
from veneer.jobs.ending import MOST_KILLS, after_process
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind, JobStatus, JobWish

JOB = Job(id="job", created_at=1.0, settings={}, status=JobStatus.RUNNING, attempts=1)


def found(
    tmp_path: Path, reason: str | None, job: Job = JOB, *, code: int | None = None, stopping: bool = False
) -> Job:
    folder = write_run(tmp_path / "job", 4, reason=reason)
    if reason == "complete":
        (folder / "run.lock").write_text("{}")
    return after_process(job, JobFolder(folder), code=code, stopping=stopping, now=5.0)


def test_the_folder_says_what_became_of_the_job(tmp_path: Path) -> None:
    assert found(tmp_path / "a", "complete").status is JobStatus.SUCCEEDED
    assert found(tmp_path / "b", "complete", code=-9).status is JobStatus.SUCCEEDED
    assert found(tmp_path / "c", "interrupted").status is JobStatus.PAUSED
    assert found(tmp_path / "d", None).status is JobStatus.QUEUED
    assert found(tmp_path / "e", "interrupted", stopping=True).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    ("wanted", "status"), [(JobWish.CANCEL, JobStatus.CANCELLED), (JobWish.PAUSE, JobStatus.PAUSED)]
)
def test_what_was_wanted_happens_unless_the_run_was_done(tmp_path: Path, wanted: JobWish, status: JobStatus) -> None:
    job = replace(JOB, wanted=wanted)
    assert found(tmp_path / "a", "interrupted", job).status is status
    assert found(tmp_path / "b", None, job, code=-9).status is status
    assert found(tmp_path / "c", "complete", job).status is JobStatus.SUCCEEDED


def test_an_error_is_the_one_of_the_last_attempt(tmp_path: Path) -> None:
    folder = JobFolder(write_run(tmp_path / "job", 4, reason="diverged"))
    folder.output_file(1).write_text("error: an old one")
    folder.output_file(2).write_text("step 3 of 4\nno error: here\nerror: the loss is nan\nLower the rate.\n")
    job = after_process(replace(JOB, attempts=2), folder, code=None, stopping=False, now=5.0)
    assert (job.status, job.error) == (JobStatus.FAILED, "the loss is nan\nLower the rate.")
    assert job.finished_at == 5.0


@pytest.mark.parametrize("before", [None, "interrupted", "diverged"])
def test_a_process_that_ends_by_itself_with_an_error_code_has_failed_whatever_became_of_the_attempt_before(
    tmp_path: Path, before: str | None
) -> None:
    """It need not have come as far as the log, or the mark in the lock of the run."""
    folder = JobFolder(write_run(tmp_path / "job", 4, reason=before))
    if before is None:
        (folder.path / ".lock").write_text('{"pid": 1}')
    silent = after_process(JOB, folder, code=1, stopping=False, now=5.0)
    assert silent.status is JobStatus.FAILED
    assert silent.error == "its process ended with code 1; see job-output-1.txt in its folder for what it printed"
    folder.output_file(1).write_text("error: rows.jsonl: no such file\n")
    assert after_process(JOB, folder, code=2, stopping=False, now=5.0).error == "rows.jsonl: no such file"
    assert after_process(JOB, folder, code=1, stopping=True, now=5.0).status is JobStatus.QUEUED


@pytest.mark.parametrize("code", [-9, -11, 137, None])
def test_a_process_that_a_signal_ended_without_a_word_goes_on(tmp_path: Path, code: int | None) -> None:
    assert found(tmp_path, None, code=code).status is JobStatus.QUEUED


@pytest.mark.parametrize("kind", [JobKind.TRAIN, JobKind.EVALUATE])
def test_a_pause_that_is_not_wanted_any_more_is_no_pause(tmp_path: Path, kind: JobKind) -> None:
    """The worker has sent its signal, which cannot be taken back."""
    job, folder = replace(JOB, kind=kind), JobFolder(write_run(tmp_path / "job", 4, reason="interrupted"))
    folder.output_file(1).write_text("error: stopped by SIGTERM. What was complete stays.\n")
    assert after_process(job, folder, code=143, stopping=False, asked=True, now=5.0).status is JobStatus.QUEUED
    assert after_process(job, folder, code=143, stopping=False, asked=False, now=5.0).status is JobStatus.PAUSED
    paused = replace(job, wanted=JobWish.PAUSE)
    assert after_process(paused, folder, code=143, stopping=False, asked=True, now=5.0).status is JobStatus.PAUSED
    assert after_process(job, folder, code=2, stopping=False, asked=True, now=5.0).status is JobStatus.FAILED


def test_kills_count_only_without_a_step_between(tmp_path: Path) -> None:
    job = JOB
    for count in range(1, MOST_KILLS + 1):
        job = found(tmp_path, None, replace(job, status=JobStatus.RUNNING), code=-9)
        assert job.status is (JobStatus.QUEUED if count < MOST_KILLS else JobStatus.FAILED)
        for file in (tmp_path / "job").iterdir():
            file.unlink()
    far = replace(JOB, kills=MOST_KILLS - 1, reached=3)
    assert found(tmp_path / "far", None, far, code=-9).kills == 1


@pytest.mark.parametrize(
    ("kind", "result"), [(JobKind.EVALUATE, "report.html"), (JobKind.EXPORT, "export/export.json")]
)
def test_an_evaluation_and_an_export_are_done_when_their_result_is_there(
    tmp_path: Path, kind: JobKind, result: str
) -> None:
    job, folder = replace(JOB, kind=kind), JobFolder(tmp_path / "job")
    folder.path.mkdir()

    def now(one: Job = job, *, code: int | None = None, stopping: bool = False) -> Job:
        return after_process(one, folder, code=code, stopping=stopping, now=5.0)

    assert now(code=-9).status is JobStatus.QUEUED  # it starts again
    given_up = now(replace(job, kills=MOST_KILLS - 1), code=-9)
    assert given_up.error == "its process was killed 5 times in a row; it may need more memory than there is"
    assert given_up.status is JobStatus.FAILED
    assert now(stopping=True).status is JobStatus.QUEUED
    assert now(replace(job, wanted=JobWish.CANCEL)).status is JobStatus.CANCELLED
    assert now(replace(job, wanted=JobWish.PAUSE)).status is JobStatus.PAUSED
    folder.output_file(1).write_text("error: no room\n")
    assert now().error == "no room"
    (folder.path / result).parent.mkdir(exist_ok=True)
    (folder.path / result).write_text("x")
    assert now(replace(job, wanted=JobWish.CANCEL), code=-9).status is JobStatus.SUCCEEDED
