"""The interface of a store of jobs, which any database can implement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from veneer.jobs.job import Job, JobStatus

Change = Callable[[Job], Job | None]
"""Gives the changed job for a job; None leaves it unchanged."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """A worker's right to run a job."""

    job: str
    owner: str
    """The worker."""
    device: str
    age: float
    """Seconds since the worker's last beat, by a clock that nobody can set."""


class JobStore(Protocol):
    """Jobs by their ids. Every method is atomic, whichever threads and processes call it.

    A job is written into its folder before it is changed in the store, so the folder is never out of date.
    """

    def add(self, job: Job) -> Job:
        """Keep a new job after all others: it gets the last place, whatever the clock says.

        Raises:
            OutputError: its folder cannot be written.
        """
        ...

    def get(self, job: str) -> Job | None:
        """The job with an id; None if there is no such job."""
        ...

    def jobs(self, *statuses: JobStatus) -> Sequence[Job]:
        """All jobs, or those with certain states, in the order of their creation."""
        ...

    def change(self, job: str, change: Change) -> Job | None:
        """Change a job. Returns the changed job, or None if there is no such job or `change` returned None.

        Raises:
            OutputError: its folder cannot be written. Nothing is changed.
        """
        ...

    def rearrange(self, change: Callable[[Sequence[Job]], Sequence[Job]]) -> Sequence[Job]:
        """Change several waiting jobs at once. `change` gets all queued jobs, and returns the changed ones, which are
        returned.

        Raises:
            OutputError: the folder of a job cannot be written. The store is not changed.
        """
        ...

    def claim(self, owner: str, device: str, refusal: Callable[[Job], str | None], start: Change) -> Job | None:
        """Give a worker the first queued job that it can run, with a lease.

        A job whose folder cannot be written is skipped, and its `waiting` gets the reason, in the store only. A job
        whose folder was deleted is removed.

        Args:
            owner: the worker.
            device: the device of the worker.
            refusal: gives the reason why a job cannot run now, which becomes its `waiting`, or None.
            start: gives the job as a running one.

        Raises:
            OutputError: no job can run, and the folder of one cannot be written.
        """
        ...

    def beat(self, job: str, owner: str) -> bool:
        """Record that a worker is still running a job. Returns whether it still has the lease."""
        ...

    def release(self, job: str, owner: str) -> None:
        """Give a lease back."""
        ...

    def leases(self) -> Sequence[JobLease]:
        """All leases."""
        ...

    def forget(self, jobs: Collection[str]) -> None:
        """Remove those of the given jobs whose folders were deleted, except running ones, which their workers end."""
        ...

    def reconcile(self) -> None:
        """Correct the store according to the folders of the jobs."""
        ...
