"""The next state of a job whose process has ended, according to its folder."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind, JobStatus, JobWish
from veneer.jobs.process import error_in
from veneer.jobs.queue import ended
from veneer.run_records.log import RunLog
from veneer.run_records.state import RunState, state_of
from veneer.runtime.signals import SIGNALS

MOST_KILLS = 5
"""How often in a row the process of a job may be killed without a further step."""
SIGNAL_CODE_BASE = 128
"""Exit codes from here on say that a signal has ended a program. Smaller ones, except 0, are the program's own."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What the ended process of a job has left in its folder."""

    done: bool
    """Whether the result exists."""
    step: int
    """The last step; 0 if there is none, as in an evaluation or an export, which always start from the beginning."""
    state: RunState | None
    """The state of the run; None if the job is not a run."""


def after_process(
    job: Job, folder: JobFolder, *, code: int | None, stopping: bool, asked: bool = False, now: float
) -> Job:
    """The job after its process has ended.

    Args:
        job: the job from the store.
        folder: the folder of the job.
        code: the exit code of the process, or minus the number of the signal that ended it; None if it is unknown.
        stopping: whether the worker itself was asked to stop, and has stopped the process for that reason.
        asked: whether the worker has asked the process to stop, for whatever reason.
        now: seconds since 1970.
    """
    left = _left(job, folder)
    if left.done:
        return ended(job, JobStatus.SUCCEEDED, None, now)
    wanted = _as_wanted(job, stopping=stopping, now=now)
    if wanted is not None:
        return wanted
    message = error_in(folder, job.attempts)
    if code is not None and 0 < code < SIGNAL_CODE_BASE:
        # The log and the mark in the lock may still be those of an earlier attempt, which was killed or stopped.
        where = f"see {folder.output_file(job.attempts).name} in its folder for what it printed"
        return ended(job, JobStatus.FAILED, message or f"its process ended with code {code}; {where}", now)
    if asked:
        # For example, for a pause that is no longer wanted: a signal that was sent cannot be taken back.
        return replace(job, status=JobStatus.QUEUED).noted(now, "its process had stopped already; it will be resumed")
    stopped = left.state is RunState.STOPPED or (code is not None and code - SIGNAL_CODE_BASE in SIGNALS)
    killed = code == -signal.SIGKILL or left.state is RunState.KILLED
    if killed or (message is None and not stopped):
        return _after_kill(job, left.step, now)
    if stopped:
        return replace(job, status=JobStatus.PAUSED).noted(now, "its process was stopped from outside", "warn")
    return ended(job, JobStatus.FAILED, message, now)


def _left(job: Job, folder: JobFolder) -> _Left:
    if job.kind is not JobKind.TRAIN:
        return _Left(folder.done(job.kind), 0, None)
    log = RunLog(folder.run.events_file)
    log.refresh()
    state = state_of(folder.path, log.end)
    return _Left(state is RunState.FINISHED, log.steps[-1] if log.steps else 0, state)


def _as_wanted(job: Job, *, stopping: bool, now: float) -> Job | None:
    """The next state of a job whose process was asked to end; None if it ended by itself."""
    if job.wanted is JobWish.CANCEL:
        return ended(job, JobStatus.CANCELLED, None, now)
    if job.wanted is JobWish.PAUSE:
        return replace(job, status=JobStatus.PAUSED, wanted=JobWish.RUN).noted(now, "paused")
    if stopping:
        return replace(job, status=JobStatus.QUEUED).noted(now, "the worker was stopped; the next one will resume it")
    return None


def _after_kill(job: Job, step: int, now: float) -> Job:
    """The next state of a job whose process was killed: it is resumed or started again, unless it was killed too often
    at the same step."""
    kills = 1 if step > job.reached else job.kills + 1
    place, again = (f" after step {step}", "resumes from its last checkpoint") if step else ("", "starts again")
    if kills >= MOST_KILLS:
        reason = f"its process was killed {kills} times in a row{place}; it may need more memory than there is"
        return ended(job, JobStatus.FAILED, reason, now)
    waiting = replace(job, status=JobStatus.QUEUED, kills=kills, reached=max(step, job.reached))
    return waiting.noted(now, f"its process was killed{place}; it {again}", "warn")
