"""A job in plain values, and the words for its states."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """Where a job stands. The words are those of OpenAI's fine-tuning jobs, and `paused`."""

    VALIDATING = "validating_files"
    """Its rows are read, and its memory is planned."""
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job by itself, nor can be asked for."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobKind(StrEnum):
    """What a job's process does."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    """Scores a run's adapter and its base on rows."""
    EXPORT = "export"
    """Writes a run's adapter as files that other programs load."""


class JobWish(StrEnum):
    """What the user wants to happen to a job that a worker has."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class JobNote:
    """Something that happened to a job, for people."""

    time: float
    """Seconds since 1970."""
    message: str
    level: str = "info"
    """`info`, `warn` or `error`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run that was asked for, or what is to be done with the adapter of one."""

    id: str
    """The name of its folder."""
    created_at: float
    """Seconds since 1970."""
    settings: Mapping[str, Any]
    """The run's configuration as nested values, without `output`; or what `veneer.jobs.arguments` takes."""
    kind: JobKind = JobKind.TRAIN
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the one who asked has said: names of files, a suffix, metadata."""
    status: JobStatus = JobStatus.QUEUED
    checked: bool = True
    """Whether it was looked at, or need not be: one that was paused before goes back to `VALIDATING`."""
    wanted: JobWish = JobWish.RUN
    priority: int = 0
    """Jobs of a higher priority come first."""
    place: float = 0.0
    """The order among jobs of one priority: the lowest comes first."""
    peak: int | None = None
    """Bytes that its plan says it takes at the peak; None where nothing is planned."""
    waiting: str | None = None
    """Why it waits although it comes first."""
    attempts: int = 0
    """How often a worker has taken it up."""
    kills: int = 0
    """How often in a row its process was killed without having made a step more."""
    reached: int = 0
    """The last step before its process was killed."""
    finished_at: float | None = None
    """When it ended, in seconds since 1970."""
    error: str | None = None
    """Why it failed."""
    history: tuple[JobNote, ...] = ()

    def noted(self, time: float, message: str, level: str = "info") -> Job:
        """The job with a note more."""
        return replace(self, history=(*self.history, JobNote(time, message, level)))

    def to_json(self) -> dict[str, Any]:
        """The job as plain values."""
        return asdict(self)


def job_of(values: Mapping[str, Any]) -> Job:
    """The job that `Job.to_json` made values of.

    Raises:
        TypeError, ValueError, KeyError: they are none of a job.
    """
    given = dict(values)
    given["status"], given["wanted"] = JobStatus(given["status"]), JobWish(given["wanted"])
    given["kind"] = JobKind(given.get("kind", JobKind.TRAIN))
    given.setdefault("checked", given["status"] is not JobStatus.VALIDATING)
    given["history"] = tuple(JobNote(**note) for note in given["history"])
    return Job(**given)


def new_id() -> str:
    """An id that no other job has."""
    return f"ftjob-{secrets.token_hex(8)}"
