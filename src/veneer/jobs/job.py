"""A job in plain values, and the words for its states."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """The state of a job, in the words of OpenAI's fine-tuning jobs, plus `paused`."""

    VALIDATING = "validating_files"
    """Its rows are being checked, and its memory is being planned."""
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job is over and cannot be resumed."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobKind(StrEnum):
    """What a job's process does."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    """Scores a run's adapter and its base on rows."""
    EXPORT = "export"
    """Writes a run's adapter as files that other programs load."""


class JobWish(StrEnum):
    """What the user wants a worker to do with its job."""

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
    """A run to be made, or an evaluation or export of the adapter of a run."""

    id: str
    """The name of its folder."""
    created_at: float
    """Seconds since 1970."""
    settings: Mapping[str, Any]
    """The run's configuration as nested values, without `output`. For other kinds see `veneer.jobs.arguments`."""
    kind: JobKind = JobKind.TRAIN
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further information from the request: names of files, a suffix, metadata."""
    status: JobStatus = JobStatus.QUEUED
    checked: bool = True
    """Whether its validation is done or not needed. A job that was paused before that goes back to `VALIDATING`."""
    wanted: JobWish = JobWish.RUN
    priority: int = 0
    """Jobs with a higher priority come first."""
    place: float = 0.0
    """The order among jobs with the same priority: the lowest comes first."""
    peak: int | None = None
    """The bytes at its peak according to its plan; None if there is no plan."""
    waiting: str | None = None
    """Why it waits although it is its turn."""
    attempts: int = 0
    """How often a worker has started it."""
    kills: int = 0
    """How often in a row its process was killed without a further step."""
    reached: int = 0
    """The last step before its process was killed."""
    finished_at: float | None = None
    """When it ended, in seconds since 1970."""
    error: str | None = None
    """Why it failed."""
    history: tuple[JobNote, ...] = ()

    def noted(self, time: float, message: str, level: str = "info") -> Job:
        """The job with a further note."""
        return replace(self, history=(*self.history, JobNote(time, message, level)))

    def to_json(self) -> dict[str, Any]:
        """The job as plain values."""
        return asdict(self)


def job_of(values: Mapping[str, Any]) -> Job:
    """The job from the values of `Job.to_json`.

    Raises:
        TypeError, ValueError, KeyError: the values are not those of a job.
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
