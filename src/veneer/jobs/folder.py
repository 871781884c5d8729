"""The files of a job in the folder of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from veneer.io.files import reported, write_text
from veneer.jobs.job import Job, JobKind, job_of
from veneer.run_folder import RunFolder
from veneer.text.strict_json import to_text

JOB_FILE = "job.json"
SETTINGS_FILE = "job-settings.json"
"""The file that `veneer train --config` reads; JSON is YAML."""
PROCESS_FILE, PID_FILE = ".job-process", ".job-pid"
GATE_FILE = "gate.yaml"
EXPORT_FOLDER = "export"
STUDIO_FOLDER = ".studio"
"""The folder next to the runs' folders for files that belong to no run: the store, locks, uploads."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of a job, which is the folder of its run."""

    path: Path

    @property
    def job_file(self) -> Path:
        """The job itself."""
        return self.path / JOB_FILE

    @property
    def settings_file(self) -> Path:
        """The configuration of its run."""
        return self.path / SETTINGS_FILE

    @property
    def process_file(self) -> Path:
        """The file that is locked while a worker, or a process that a worker has started, runs the job."""
        return self.path / PROCESS_FILE

    @property
    def pid_file(self) -> Path:
        """The id of the process that a worker has started, with the attempt."""
        return self.path / PID_FILE

    @property
    def gate_file(self) -> Path:
        """The margins of an evaluation."""
        return self.path / GATE_FILE

    @property
    def export(self) -> Path:
        """The folder that an export writes."""
        return self.path / EXPORT_FOLDER

    def done(self, kind: JobKind) -> bool:
        """Whether the result of an evaluation or an export exists; it is written atomically."""
        return self.run.report_file.is_file() if kind is JobKind.EVALUATE else self.export.is_dir()

    @property
    def run(self) -> RunFolder:
        """The folder as that of a run."""
        return RunFolder(self.path)

    def output_file(self, attempt: int) -> Path:
        """The file with the output of the process of an attempt."""
        return self.path / f"job-output-{attempt}.txt"

    def deleted(self) -> bool:
        """Whether the folder of a job that a process is running was deleted. If the process then writes a file, it
        creates the folder again, but not this file."""
        try:
            self.process_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        return False

    def lost(self) -> bool:
        """Whether the folder of a job that no process is running, or the job in it, was deleted."""
        try:
            self.job_file.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False  # it exists without being accessible, or something in its place may be removed again
        return False

    def write(self, job: Job) -> None:
        """Write the job atomically, and also its settings if it has not begun yet.

        Raises:
            OutputError: it cannot be written.
        """
        with reported(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if job.attempts == 0 or not self.settings_file.is_file():
            settings = {**job.settings, "output": str(self.path)}
            write_text(self.settings_file, to_text(settings, indent=2, ensure_ascii=False) + "\n")
            if job.kind is JobKind.EVALUATE and job.settings.get("gate"):
                write_text(self.gate_file, to_text(job.settings["gate"]) + "\n")  # JSON is YAML
        write_text(self.job_file, to_text(job.to_json(), indent=2, ensure_ascii=False) + "\n")

    def read(self) -> Job | None:
        """The job; None if the folder has no readable job."""
        try:
            job = job_of(json.loads(self.job_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return job if job.id == self.path.name else None


def job_folders(root: Path) -> Iterator[JobFolder]:
    """The folders of the jobs in a folder of runs."""
    for file in sorted(root.glob(f"*/{JOB_FILE}")):
        yield JobFolder(file.parent)
