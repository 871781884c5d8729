"""A job's process is known by locks alone: whoever started it, and whether or not its worker is still there."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.processes.job_workers import PLAY, played, queue_of, wait_for
from veneer.errors import OutputError
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import JobKind
from veneer.jobs.process import FoundProcess, StartedProcess, error_in, job_lock
from veneer.runtime.posix import is_locked


def test_the_lock_of_a_job_lives_as_long_as_the_process_that_inherited_it(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = played(queue, 500, seconds=0.02)
    folder = JobFolder(tmp_path / job.id)
    with job_lock(folder) as held:
        assert held is not None
        with job_lock(folder) as other:
            assert other is None
        process = StartedProcess(folder, job, held, [sys.executable, "-S", str(PLAY)])
    found = FoundProcess(folder, job)
    assert found.running()
    assert process.running()
    wait_for(lambda: (folder.path / "events.jsonl").is_file())
    found.send(signal.SIGTERM)
    wait_for(lambda: not process.running())
    assert process.code() == 143
    assert not found.running()
    assert found.code() is None
    found.send(signal.SIGTERM)  # nobody is there: nothing happens
    process.send(signal.SIGTERM)
    with job_lock(folder) as held:
        assert held is not None


def test_a_process_whose_id_cannot_be_kept_is_ended_and_its_attempt_has_not_begun(tmp_path: Path) -> None:
    job = played(queue_of(tmp_path), 500, seconds=0.02)
    job = replace(job, kind=JobKind.EVALUATE, settings={**job.settings, "adapter": "a", "data": "d"})
    folder = JobFolder(tmp_path / job.id)
    folder.pid_file.mkdir()
    with job_lock(folder) as held:
        assert held is not None
        with pytest.raises(OutputError):
            StartedProcess(folder, job, held, [sys.executable, "-c", "import time; time.sleep(600)"])
    assert not is_locked(folder.process_file)
    assert not folder.output_file(job.attempts).exists()


def test_the_error_of_an_attempt_is_the_last_line_that_begins_so(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert error_in(folder, 1) is None
    folder.output_file(1).write_text("x" * 50_000 + "\nerror: too\nlong\n")
    assert error_in(folder, 1) == "too\nlong"
    folder.output_file(2).write_text("no error: in the middle")
    assert error_in(folder, 2) is None
    raised = "step 1: the reward grade failed:\n  - rows.jsonl:4: it raised error: missing )"
    folder.output_file(3).write_text(f"error: an old one\nstep 1 of 9\nerror: {raised}\n")
    assert error_in(folder, 3) == raised
    folder.output_file(4).write_text("error: " + "é" * 30_000 + "\n")
    assert error_in(folder, 4) == "é" * 20_000 + " …"
