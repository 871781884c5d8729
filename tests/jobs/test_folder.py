"""The folder of a job says all that the store knows, and what its run is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.config.values import read_yaml
from veneer.errors import OutputError
from veneer.jobs.folder import JobFolder, job_folders
from veneer.jobs.job import Job, new_id


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "a")
    job = Job(id="a", created_at=1.5, settings={"lora": {"rank": 3}}, details={"x": [1]}).noted(2.0, "made – é\u2028")
    folder.write(job)
    assert folder.read() == job
    assert read_yaml(folder.settings_file) == {"lora": {"rank": 3}, "output": str(tmp_path / "a")}
    assert [one.path for one in job_folders(tmp_path)] == [folder.path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "a"}', '{"id": 3, "status": "no"}', "\xff"])
def test_what_is_no_job_is_none(tmp_path: Path, text: str) -> None:
    folder = JobFolder(tmp_path / "a")
    folder.path.mkdir()
    assert folder.read() is None
    folder.job_file.write_text(text, encoding="latin-1")
    assert folder.read() is None


def test_a_job_in_another_jobs_folder_is_none(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "copy")
    folder.write(Job(id="original", created_at=1.0, settings={}))
    assert folder.read() is None


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        JobFolder(tmp_path / "a").write(Job(id="a", created_at=1.0, settings={}))


def test_a_folder_without_the_lock_of_its_process_was_deleted(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    assert folder.deleted()
    folder.path.mkdir()
    folder.process_file.touch()
    assert not folder.deleted()


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(100)}) == 100
