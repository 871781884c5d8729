"""Bases are found by what the studio knows of them, from whichever folder it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.studios import CPU, studio
from veneer.http_server.keys import Keys
from veneer.jobs.job import Job, JobKind, JobStatus
from veneer.studio.request import StudioRequest
from veneer.studio.sessions import Sessions
from veneer.studio.studio import Studio, make_studio


def resting(root: Path, *models: str) -> Studio:
    """A studio that has looked at its folder, and does nothing."""
    found = make_studio(StudioRequest(folder=root, models=models), Sessions(Keys(())))
    found.watcher.look()
    return found


def test_models_that_are_named_by_relative_paths_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "trained"):
        (tmp_path / "models" / name).mkdir(parents=True)
    run = write_run(tmp_path / "runs" / "run", config="model: models/trained\nmethod: lora\n")
    (run / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    studio = resting(tmp_path / "runs", "models/named", "owner/hub-id")
    named, trained = (str(tmp_path / "models" / name) for name in ("named", "trained"))
    assert studio.bases.all() == {"named": named, "owner/hub-id": "owner/hub-id", "trained": trained}
    assert [base for base, _ in studio.chat.adapters().values()] == [trained]


def full_job(number: int, status: JobStatus, kind: JobKind = JobKind.TRAIN) -> Job:
    settings = {"model": "base", "method": "full"}
    return Job(id=f"ftjob-{number}", created_at=1.0, settings=settings, status=status, kind=kind)


def test_models_that_jobs_have_trained_as_a_whole_are_bases_by_the_names_of_the_jobs(tmp_path: Path) -> None:
    studio = resting(tmp_path / "runs")
    for number, status in enumerate((JobStatus.SUCCEEDED, JobStatus.FAILED), start=1):
        studio.queue.store.add(full_job(number, status))
        write_run(studio.root / f"ftjob-{number}", config="model: base\nmethod: full\n")
    # A later job has trained on the first one's model, which has no other name for that.
    write_run(studio.root / "on", config=f"model: {studio.root / 'ftjob-1'}\nmethod: lora\n")
    studio.watcher.look()
    assert studio.bases.all() == {"base": "base", "ft-1": str(studio.root / "ftjob-1")}
    assert studio.bases.name_of(str(studio.root / "ftjob-1")) == "ft-1"


def test_a_client_that_is_told_that_a_job_has_ended_finds_its_model_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.studio.watch.LOOK_SECONDS", 3600.0)
    with studio(tmp_path / "runs") as opened:
        jobs = opened.client.fine_tuning.jobs
        for number, told in enumerate((lambda: jobs.retrieve("ftjob-0"), lambda: next(iter(jobs.list())))):
            opened.studio.queue.store.add(full_job(number, JobStatus.SUCCEEDED))
            write_run(opened.studio.root / f"ftjob-{number}", config="model: base\nmethod: full\n")
            name = told().fine_tuned_model
            assert name == f"ft-{number}"
            assert name in [model.id for model in opened.client.models.list()]


@pytest.mark.slow
def test_the_model_of_a_full_fine_tuning_answers_by_the_name_that_its_job_gives(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    with studio(tmp_path / "runs", tiny_model) as opened:
        file = opened.client.files.create(file=tiny_data, purpose="fine-tune")
        opened.client.files.wait_for_processing(file.id, poll_interval=0.1)
        settings = {key: value for key, value in CPU.items() if not key.startswith("lora.")} | {"train.steps": 1}
        own = {"method": "full", "settings": settings}
        jobs = opened.client.fine_tuning.jobs
        job = jobs.create(model="model", training_file=file.id, extra_body={"veneer": own})
        wait_for(lambda: jobs.retrieve(job.id).status in ("succeeded", "failed"), 180)
        name = jobs.retrieve(job.id).fine_tuned_model
        assert isinstance(name, str)
        assert name in [model.id for model in opened.client.models.list()]
        made = opened.client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "x"}], max_tokens=2
        )
        assert made.usage is not None
