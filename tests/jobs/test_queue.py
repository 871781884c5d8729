"""What may be asked of a job in which state, and the order of the queue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.processes.job_workers import queue_of
from veneer.errors import ConfigError
from veneer.jobs.job import Job, JobStatus, JobWish, job_of

ALLOWED = {
    "cancel": {JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED},
    "pause": {JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING},
    "resume": {JobStatus.PAUSED},
    "validated": {JobStatus.VALIDATING},
    "refuse": {JobStatus.VALIDATING},
}


@pytest.mark.parametrize("state", list(JobStatus))
@pytest.mark.parametrize("verb", list(ALLOWED))
def test_a_verb_is_allowed_in_these_states(tmp_path: Path, verb: str, state: JobStatus) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {})
    queue.store.change(job.id, lambda found: replace(found, status=state))
    before = queue.get(job.id)
    more = {"validated": (7,), "refuse": ("why",)}.get(verb, ())
    made = getattr(queue, verb)(job.id, *more)
    assert (made is not None) == (state in ALLOWED[verb])
    if made is None:
        assert queue.get(job.id) == before


def test_a_running_job_is_asked_and_another_is_changed_at_once(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {})
    queue.store.change(job.id, lambda found: replace(found, status=JobStatus.RUNNING))
    paused = queue.pause(job.id)
    assert paused is not None
    assert (paused.status, paused.wanted) == (JobStatus.RUNNING, JobWish.PAUSE)
    again = queue.resume(job.id)
    assert again is not None
    assert again.wanted is JobWish.RUN
    cancelled = queue.cancel(job.id)
    assert cancelled is not None
    assert cancelled.wanted is JobWish.CANCEL
    assert queue.pause(job.id) is None
    assert queue.cancel("no such job") is None


def test_a_job_that_is_paused_before_it_was_looked_at_is_looked_at_when_it_goes_on(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {}, status=JobStatus.VALIDATING)
    queue.pause(job.id)
    assert queue.validated(job.id, 7) is None
    assert queue.refuse(job.id, "a look that ends late") is None
    resumed = queue.resume(job.id)
    assert resumed is not None
    assert resumed.status is JobStatus.VALIDATING
    queue.validated(job.id, 7)
    queue.pause(job.id)
    resumed = queue.resume(job.id)
    assert resumed is not None
    assert (resumed.status, resumed.peak) == (JobStatus.QUEUED, 7)


@pytest.mark.parametrize(("state", "checked"), [(JobStatus.VALIDATING, False), (JobStatus.QUEUED, True)])
def test_a_job_of_a_folder_that_does_not_say_it_was_looked_at_was_if_it_is_further(
    state: JobStatus, checked: bool
) -> None:
    values = Job(id="job", created_at=1.0, settings={}, status=state).to_json()
    del values["checked"]
    assert job_of(values).checked is checked


def test_the_queue_goes_by_priority_and_place(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    a, b, c, d = (queue.create({}, {}).id for _ in range(4))

    def order() -> list[str]:
        return [job.id for job in queue.waiting()]

    assert order() == [a, b, c, d]
    queue.put_before(d, b)
    assert order() == [a, d, b, c]
    queue.put_before(a, None)
    assert order() == [d, b, c, a]
    queue.put_before(c, d)
    assert order() == [c, d, b, a]
    queue.prioritise(a, 3)
    assert order() == [a, c, d, b]
    queue.put_before(b, c)
    assert order() == [a, b, c, d]
    queue.put_before(d, a)
    assert order() == [d, a, b, c]
    found = queue.get(d)
    assert found is not None
    assert found.priority == 3
    assert queue.put_before(b, "nobody") is None
    with pytest.raises(ConfigError, match="from -100 to 100"):
        queue.prioritise(a, 101)


def test_jobs_are_moved_between_the_same_neighbours_as_often_as_anybody_likes(tmp_path: Path) -> None:
    """A place is the middle of two others, of which there are some fifty."""
    queue = queue_of(tmp_path)
    x, a, b = (queue.create({}, {}).id for _ in range(3))
    for _ in range(40):
        for first, second in ((b, a), (a, b)):
            moved = queue.put_before(first, second)
            assert moved is not None
            assert moved == queue.get(first)
            assert [job.id for job in queue.waiting()] == [x, first, second]
    assert queue.create({}, {}).id == queue.waiting()[-1].id


def test_a_job_that_does_not_wait_is_not_moved_where_nothing_else_waits(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    job = queue.create({}, {}).id
    assert queue.put_before(job, None) is not None
    queue.cancel(job)
    assert queue.put_before(job, None) is None
