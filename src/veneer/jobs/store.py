"""The interface of a store of jobs, behind which another database can stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from veneer.jobs.job import Job, JobStatus

Change = Callable[[Job], Job | None]
"""Makes a job into what it becomes; None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """A worker's right to carry a job out."""

    job: str
    owner: str
    """The worker."""
    device: str
    age: float
    """Seconds since the worker last told that it is at the job, by a clock that nobody can set."""


class JobStore(Protocol):
    """Jobs by their ids. Every method is atomic, whichever threads and processes call it.

    Before a job is changed in the store it is written into its folder, so that the folder is never behind.
    """

    def add(self, job: Job) -> Job:
        """Keep a new job, behind all others: whatever the clock says, it gets the last place.

        Raises:
            OutputError: its folder cannot be written.
        """
        ...

    def get(self, job: str) -> Job | None:
        """The job of that id."""
        ...

    def jobs(self, *statuses: JobStatus) -> Sequence[Job]:
        """All jobs, or those of some states, in the order in which they were made."""
        ...

    def change(self, job: str, change: Change) -> Job | None:
        """Change a job; what it is afterwards, or None where there is none of that id or `change` gave None.

        Raises:
            OutputError: its folder cannot be written; nothing is changed.
        """
        ...

    def rearrange(self, change: Callable[[Sequence[Job]], Sequence[Job]]) -> Sequence[Job]:
        """Change jobs that wait together: `change` is given all that are queued, and gives those that become others;
        these.

        Raises:
            OutputError: the folder of one cannot be written; the store stays as it is.
        """
        ...

    def claim(self, owner: str, device: str, refusal: Callable[[Job], str | None], start: Change) -> Job | None:
        """Give a worker the first queued job that it can carry out, with a lease. One whose folder cannot be written is
        passed over, with the reason as its `waiting`, which the store alone holds. One whose folder was deleted is no
        job any more.

        Args:
            owner: the worker.
            device: where it computes.
            refusal: says why a job cannot be carried out now, which then is the job's `waiting`.
            start: makes the job one that is carried out.

        Raises:
            OutputError: no job can be carried out, and the folder of one cannot be written.
        """
        ...

    def beat(self, job: str, owner: str) -> bool:
        """Tell that a worker is still at a job; whether it still has the lease."""
        ...

    def release(self, job: str, owner: str) -> None:
        """Give a lease back."""
        ...

    def leases(self) -> Sequence[JobLease]:
        """The leases that there are."""
        ...

    def forget(self, jobs: Collection[str]) -> None:
        """Forget those of some jobs whose folders were deleted: they are no jobs any more. One that is running is its
        worker's to see to."""
        ...

    def reconcile(self) -> None:
        """Take over what the folders of the jobs say where the store says something else."""
        ...
