"""The operations of users on jobs: create, pause, resume, cancel, and move in the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from veneer.errors import ConfigError
from veneer.jobs.job import Job, JobKind, JobStatus, JobWish, new_id
from veneer.jobs.store import JobStore

PRIORITIES = range(-100, 101)


class JobQueue:
    """The jobs of a folder of runs, with the operations of users.

    Args:
        root: the folder of the runs.
        store: the store of the jobs.
        clock: gives the seconds since 1970.
    """

    def __init__(self, root: Path, store: JobStore, clock: Callable[[], float] = time.time):
        self.root, self.store, self._clock = root, store, clock

    def create(
        self, settings: Mapping[str, Any], details: Mapping[str, Any], *, priority: int = 0, peak: int | None = None,
        status: JobStatus = JobStatus.QUEUED, kind: JobKind = JobKind.TRAIN,
    ) -> Job:  # fmt: skip
        """Create a job.

        Args:
            settings: see `Job.settings`.
            details: further information from the request.
            priority: jobs with a higher priority come first.
            peak: the bytes at its peak according to its plan.
            status: `QUEUED`, or `VALIDATING` if it must be validated first.
            kind: what its process does.

        Raises:
            OutputError: its folder cannot be written.
            ConfigError: the priority is out of range.
        """
        now = self._clock()
        job = Job(
            id=new_id(), created_at=now, settings=settings, details=details, status=status, kind=kind,
            checked=status is not JobStatus.VALIDATING, priority=_priority(priority), peak=peak,
        )  # fmt: skip
        return self.store.add(job.noted(now, "the job was created"))

    def get(self, job: str) -> Job | None:
        """The job with an id; None if there is no such job."""
        return self.store.get(job)

    def jobs(self) -> Sequence[Job]:
        """All jobs, the newest first."""
        return list(reversed(self.store.jobs()))

    def waiting(self) -> Sequence[Job]:
        """The jobs that wait for a worker, in the order in which they will be started."""
        return in_order(self.store.jobs(JobStatus.QUEUED))

    def validated(self, job: str, peak: int | None, settings: Mapping[str, Any] | None = None) -> Job | None:
        """Queue a job after its validation, with other settings if they are given; None if it is not being
        validated."""

        def change(found: Job) -> Job | None:
            if found.status is not JobStatus.VALIDATING:
                return None
            chosen = found.settings if settings is None else settings
            ready = replace(found, status=JobStatus.QUEUED, checked=True, peak=peak, settings=chosen)
            return ready.noted(self._clock(), "its files are valid")

        return self.store.change(job, change)

    def refuse(self, job: str, reason: str) -> Job | None:
        """End a job whose validation has failed; None if it is not being validated any more."""

        def change(found: Job) -> Job | None:
            if found.status is not JobStatus.VALIDATING:
                return None
            return self._ended(found, JobStatus.FAILED, reason)

        return self.store.change(job, change)

    def cancel(self, job: str) -> Job | None:
        """Cancel a job; None if it has ended already. A running job ends after its current step."""

        def change(found: Job) -> Job | None:
            if found.status.ended:
                return None
            if found.status is JobStatus.RUNNING:
                return replace(found, wanted=JobWish.CANCEL).noted(self._clock(), "it was asked to stop")
            return self._ended(found, JobStatus.CANCELLED, None)

        return self.store.change(job, change)

    def pause(self, job: str) -> Job | None:
        """Pause a job; None if it neither waits nor is running. A running job saves its last step."""

        def change(found: Job) -> Job | None:
            if found.status is JobStatus.RUNNING and found.wanted is not JobWish.CANCEL:
                return replace(found, wanted=JobWish.PAUSE).noted(self._clock(), "it was asked to pause")
            if found.status in (JobStatus.QUEUED, JobStatus.VALIDATING):
                return replace(found, status=JobStatus.PAUSED, waiting=None).noted(self._clock(), "paused")
            return None

        return self.store.change(job, change)

    def resume(self, job: str) -> Job | None:
        """Resume a job that is paused or about to be; None if it is neither. If it was not validated before, it becomes
        `VALIDATING`, and the caller must validate it."""

        def change(found: Job) -> Job | None:
            if found.status is JobStatus.PAUSED:
                status = JobStatus.QUEUED if found.checked else JobStatus.VALIDATING
                again = replace(found, status=status, wanted=JobWish.RUN, kills=0)
                return again.noted(self._clock(), "resumed")
            if found.status is JobStatus.RUNNING and found.wanted is JobWish.PAUSE:
                return replace(found, wanted=JobWish.RUN).noted(self._clock(), "resumed")
            return None

        return self.store.change(job, change)

    def prioritise(self, job: str, priority: int) -> Job | None:
        """Give a job another priority; None if it has ended. Raises ConfigError if the priority is out of range."""
        chosen = _priority(priority)
        return self.store.change(job, lambda found: None if found.status.ended else replace(found, priority=chosen))

    def put_before(self, job: str, other: str | None) -> Job | None:
        """Move a waiting job before another one, whose priority it gets. If `other` is None, it is moved to the end.

        Returns:
            The job; None if one of them does not wait.
        """
        made = self.store.rearrange(lambda waiting: moved(in_order(waiting), job, other))
        return next((one for one in made if one.id == job), None)

    def _ended(self, job: Job, status: JobStatus, reason: str | None) -> Job:
        return ended(job, status, reason, self._clock())


def in_order(waiting: Sequence[Job]) -> list[Job]:
    """Waiting jobs, in the order in which they will be started."""
    return sorted(waiting, key=lambda job: (-job.priority, job.place, job.created_at, job.id))


def moved(order: Sequence[Job], job: str, other: str | None) -> list[Job]:
    """The jobs that change when one is moved before another one.

    Args:
        order: all waiting jobs, in order.
        job: the id of the job that is moved.
        other: the id of the job that it is moved before; None moves it to the end.

    Returns:
        The moved job, and those that get another place because of it; empty if one of the two does not wait.
    """
    own = next((one for one in order if one.id == job), None)
    rest = [one for one in order if one.id != job]
    at = next((place for place, one in enumerate(rest) if one.id == other), len(rest))
    if own is None or (other is not None and at == len(rest)):
        return []
    if not rest:
        return [own]
    after = rest[at - 1] if at else None
    target = rest[min(at, len(rest) - 1)]
    if at == len(rest):
        place = target.place + 1.0
    elif after is None or after.priority != target.priority:
        place = target.place - 1.0
    else:
        place = (after.place + target.place) / 2
        if not after.place < place < target.place:
            # After some fifty moves there is no float between two places: all jobs get whole numbers.
            peers = [*rest[:at], replace(own, priority=target.priority), *rest[at:]]
            peers = [one for one in peers if one.priority == target.priority]
            return [replace(one, place=float(number)) for number, one in enumerate(peers, 1)]
    return [replace(own, priority=target.priority, place=place)]


def ended(job: Job, status: JobStatus, reason: str | None, now: float) -> Job:
    """The job after its end with a status, and a reason if it failed."""
    message = {JobStatus.SUCCEEDED: "finished", JobStatus.CANCELLED: "cancelled"}.get(status, reason or "")
    over = replace(job, status=status, wanted=JobWish.RUN, error=reason, finished_at=now, waiting=None)
    return over.noted(now, message, "error" if status is JobStatus.FAILED else "info")


def _priority(priority: int) -> int:
    if priority not in PRIORITIES:
        raise ConfigError(f"priority {priority}: must be from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return priority
