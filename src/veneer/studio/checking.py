"""Checks in the background, one after another: of uploaded files, and of jobs before they wait for a worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from veneer.config import parse
from veneer.data.files.readers import iterate_rows
from veneer.data.forms.formats import format_of
from veneer.data.lint.row import LintSetting
from veneer.data.lint.rules import Severity
from veneer.data.lint.run import lint
from veneer.data.page.content import content
from veneer.enums import ObjectiveName
from veneer.errors import OutputError, VeneerError, where_raised
from veneer.evaluation.lint_request import LintRequest, run_lint
from veneer.events import Subscriber, ignore
from veneer.io.files import write_text
from veneer.jobs.job import Job, JobKind, JobStatus
from veneer.jobs.queue import JobQueue
from veneer.planning.plan import Plan
from veneer.studio.files import FileStatus, FileStore, StoredFile
from veneer.studio.path_names import names_for_job, without_paths
from veneer.studio.plans import planned
from veneer.studio.task_plans import planned_task
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text, with_reasons

LINT = "lint.json"
RETRY_WRITE_SECONDS = 2.0
"""Seconds until the next attempt after a write has failed."""
log = logging.getLogger("veneer.studio")
T = TypeVar("T")


class Checking:
    """Checks files and jobs on a thread of its own.

    Args:
        files: the uploaded files.
        queue: the jobs.
    """

    def __init__(self, files: FileStore, queue: JobQueue):
        self._files, self._queue = files, queue
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="veneer-checking")

    def close(self) -> None:
        """Begin no further checks."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self) -> None:
        """Resume the checks that were under way when an earlier studio ended."""
        for file in self._files.all():
            if file.status is FileStatus.UPLOADED:
                self.check_file(file)
        for job in self._queue.store.jobs(JobStatus.VALIDATING):
            self.check_job(job)

    def check_file(self, file: StoredFile) -> None:
        """Have a file checked by the lint."""
        self._submit(file.id, lambda: self._check_file(file), lambda said: self._fail(file, said))

    def check_job(self, job: Job) -> None:
        """Have a job planned. It then waits for a worker."""
        self._submit(job.id, lambda: self._check_job(job), lambda said: self._queue.refuse(job.id, said))

    def _submit(self, name: str, look: Callable[[], None], fail: Callable[[str], object]) -> None:
        """Submit a check. An unexpected error is logged, and `fail` ends the file or job with it: otherwise nobody
        would learn of the error, and the check would never end."""

        def end(looked: Future[None]) -> None:
            error = looked.exception()
            if error is None:
                return
            log.error("%s: %s", name, where_raised(error))
            said = f"the check failed unexpectedly ({type(error).__name__}); the studio's log says where"
            self._persistently(lambda: fail(said))

        # The pool has one thread: `end` comes after the look.
        self._pool.submit(end, self._pool.submit(look))

    def _fail(self, file: StoredFile, said: str) -> None:
        self._files.put(replace(file, status=FileStatus.ERROR, status_details=said))

    def _check_file(self, file: StoredFile) -> None:
        rows = self._files.content(file)
        try:
            report = lint(rows)
            prompts = int(report.facts.unanswered.sum())
            asks = prompts > 0 and not report.facts.usable.any()
            if asks:
                report = lint(rows, LintSetting(objective=ObjectiveName.GRPO))
        except VeneerError as error:
            said = str(error).replace(str(rows), file.filename)
            self._persistently(lambda: self._fail(file, said))
            return
        errors, warnings = report.rows_with(Severity.ERROR), report.rows_with(Severity.WARNING)
        said = f"{count_of(report.rows, 'row')}: {errors:,} with errors, {warnings:,} with warnings"
        status, unnamed = FileStatus.PROCESSED, False
        if asks:
            said = (
                f"{count_of(report.rows, 'row')}: {prompts:,} without an answer, which only reinforcement can train on"
            )
        elif report.failed and errors == report.rows:
            status, unnamed = FileStatus.ERROR, _unnamed(rows)
            said += (
                "; the names of their columns are not known, so a job needs the setting data.columns" if unnamed else ""
            )
        found = replace(file, status=status, status_details=said, rows=report.rows, asks=asks, unnamed=unnamed)

        def keep() -> None:
            if self._files.get(file.id) is None:
                return  # it was deleted in the meantime
            write_text(self._files.beside(file, LINT), lint_json(report.to_json()))
            self._files.put(found)

        self._persistently(keep)

    def _check_job(self, job: Job) -> None:
        found = self._persistently(lambda: self._queue.get(job.id))
        if found is None or found.status is not JobStatus.VALIDATING:
            return
        try:
            checked = _checked(found, self._queue.root)
        except VeneerError as error:
            checked = _Checked(refusal=without_paths(str(error), names_for_job(found, self._queue.root)))
        if checked.refusal is not None:
            reason = checked.refusal
            self._persistently(lambda: self._queue.refuse(job.id, reason))
        else:
            self._persistently(lambda: self._queue.validated(job.id, checked.peak, checked.settings))

    def _persistently(self, ask: Callable[[], T]) -> T | None:
        """Ask the store or write a result, and try again while that fails: a disk that is full now may have room later.
        Returns None if the studio is closed first."""
        while not self._closing.is_set():
            try:
                return ask()
            except OutputError as error:
                log.warning("%s", error)
                self._closing.wait(RETRY_WRITE_SECONDS)
        return None


def _unnamed(rows: Path) -> bool:
    """Whether all rows of a file are objects, and none has the keys of a known format."""
    return all(isinstance(row, dict) and row and format_of(row) is None for _, row in iterate_rows(rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    """The result of checking a job."""

    refusal: str | None = None
    """Why the job cannot be carried out."""
    peak: int | None = None
    """Bytes that the job needs by its plan; None if nothing is planned."""
    settings: Mapping[str, Any] | None = None
    """The settings of the job, if they differ from those in the request."""


def _checked(job: Job, root: Path) -> _Checked:
    """Check a job before it waits for a worker.

    Raises:
        VeneerError: something that the job names cannot be used.
    """
    if job.kind is not JobKind.TRAIN:
        task = planned_task(job)
        return _Checked(refusal=task.refusal, peak=task.peak)
    multiplier = job.details.get("rate_multiplier")
    plan = planned(parse({**job.settings, "output": str(root / job.id)}, where="the job"), multiplier)
    peak = int(plan.forecast.choice.memory.peak) if isinstance(plan.forecast, Plan) else None
    settings = dict(job.settings)
    if multiplier is not None:
        settings["train"] = {**(settings.get("train") or {}), "learning_rate": plan.config.train.learning_rate}
    return _Checked(refusal=plan.forecast.refusal, peak=peak, settings=settings)


def lint_json(values: dict[str, Any]) -> str:
    """A report of the lint as JSON text."""
    return to_text(with_reasons(values), ensure_ascii=False)


def lint_page(
    path: Path, model: str | None, objective: ObjectiveName | None, emit: Subscriber = ignore
) -> dict[str, Any]:
    """All that the page on a file shows: findings, rows with their tokens and mask, histograms.

    Args:
        path: the file.
        model: the model whose tokenizer and template encode the rows; None shows them as text.
        objective: the objective that the rows are for; None reads each row by its keys.
        emit: receives the progress.

    Raises:
        DataError: the file cannot be read.
        ModelError: the model has no usable tokenizer.
    """
    request = LintRequest(data=str(path), model=model, objective=objective)
    return content(run_lint(request, emit))
