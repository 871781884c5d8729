"""The command lines of jobs are ones that veneer understands."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from veneer.cli import main
from veneer.jobs.arguments import arguments_of
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind, job_of


def words(kind: JobKind, folder: Path, **settings: object) -> list[str]:
    job = Job(id=folder.name, created_at=1.0, settings={"model": "m", "adapter": "a", **settings}, kind=kind)
    return arguments_of(job, JobFolder(folder))


def test_a_run_is_trained_and_gone_on_with(tmp_path: Path) -> None:
    assert words(JobKind.TRAIN, tmp_path) == ["train", "--config", str(tmp_path / "job-settings.json"), "--resume"]


@pytest.mark.parametrize("kind", [JobKind.EVALUATE, JobKind.EXPORT])
def test_every_option_is_one_of_its_command(tmp_path: Path, kind: JobKind) -> None:
    settings = {
        JobKind.EVALUATE: {"data": "d", "limit": 3, "metrics": ["exact", "json"], "suites": ["copying"],
                           "suite_items": 5, "gate": {"better_by": 0.1}},
        JobKind.EXPORT: {"data": "d", "to": "gguf", "dtype": "float16", "quant": "q8_0"},
    }[kind]  # fmt: skip
    command, *given = words(kind, tmp_path, **settings)
    # click keeps the names of a command's help from the first context that it gets: they are the parent's.
    parent = click.Context(main, **main.context_settings)
    parsed = main.commands[command].make_context(command, given, parent=parent).params
    assert parsed["model"] == "m"
    for key, value in settings.items():
        told = parsed[key]
        if key == "gate":
            assert told == tmp_path / "gate.yaml"
        else:
            assert list(told) == value if isinstance(value, list) else told == value
    assert (
        (parsed["html"] == tmp_path / "report.html")
        if kind is JobKind.EVALUATE
        else parsed["output"] == tmp_path / "export"
    )


def test_a_job_of_an_older_studio_trains(tmp_path: Path) -> None:
    values = Job(id="x", created_at=1.0, settings={}).to_json()
    del values["kind"]
    assert job_of(values).kind is JobKind.TRAIN
