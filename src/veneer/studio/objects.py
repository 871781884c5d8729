"""Files, jobs, events and checkpoints in the form of OpenAI's API. Anything that the API has no field for is under
`veneer`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from veneer.config import RunConfig
from veneer.enums import Method, ObjectiveName
from veneer.http_server.errors import ApiError
from veneer.jobs.job import Job, JobNote, JobStatus
from veneer.run_folder import RunFolder, run_of
from veneer.run_records.log import RunLog
from veneer.run_records.record import RunRecord, read_settings
from veneer.run_records.state import RunState
from veneer.studio.files import StoredFile
from veneer.studio.job_request import EXTENSION, HYPERPARAMETERS, OBJECTIVES, OWN_HYPERPARAMETERS
from veneer.studio.path_names import names_for_job, values_with_names, without_paths

STATUSES = {JobStatus.PAUSED: "queued"}
"""States that OpenAI's API has no word for, each with the word that clients get."""
DEFAULT_METHOD: Method = RunConfig.model_fields["method"].default
"""The method of a job that names none."""
LEVELS = {"note": "info", "warning": "warn"}


def file_object(file: StoredFile) -> dict[str, Any]:
    """A file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status.value,
        "status_details": file.status_details,
        EXTENSION: {"rows": file.rows, "asks": file.asks, "unnamed": file.unnamed},
    }


def model_of(job: Job) -> str:
    """The name of the model that a job makes."""
    return f"{job.details.get('suffix') or 'ft'}-{job.id.removeprefix('ftjob-')[:12]}"


def job_object(job: Job, run: RunRecord | None, root: Path) -> dict[str, Any]:
    """A job.

    Args:
        job: the job.
        run: the run of the job; None if the run has written nothing yet.
        root: the folder of runs. No message contains its path.
    """
    details, names = job.details, names_for_job(job, root)
    given = details.get("hyperparameters", {})
    hyper = {name: given.get(name, "auto") for name in HYPERPARAMETERS}
    running = run is not None and run.state is RunState.RUNNING and job.status is JobStatus.RUNNING
    return {
        **beginning(job, "fine_tuning.job"),
        "estimated_finish": _estimated(run) if running and run is not None else None,
        "model": details.get("model", ""),
        "fine_tuned_model": model_of(job) if job.status is JobStatus.SUCCEEDED else None,
        "organization_id": "veneer",
        "status": STATUSES.get(job.status, job.status.value),
        "training_file": details.get("training_file", ""),
        "validation_file": details.get("validation_file"),
        "result_files": [],
        "seed": details.get("seed") or 0,
        "trained_tokens": run.tokens if run is not None and job.status is JobStatus.SUCCEEDED else None,
        "hyperparameters": hyper,
        "method": _method(job, hyper),
        "metadata": details.get("metadata") or {},
        "integrations": details.get("integrations") or [],
        "error": error_of(job, names),
        EXTENSION: {
            **standing(job, names),
            "objective": objective_of(job).value,
            "attempts": job.attempts,
            "run": job.id,
            "name": model_of(job),
            "step": 0 if run is None else run.step,
            "steps": 0 if run is None else run.steps,
            "loss": None if run is None else finite(run.loss),
            "settings": values_with_names(_without_files(job.settings), names),
        },
    }


def beginning(job: Job, kind: str) -> dict[str, Any]:
    """The first fields of the object of every job."""
    return {
        "id": job.id,
        "object": kind,
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
    }


def standing(job: Job, names: Mapping[str, str]) -> dict[str, Any]:
    """The state of a job of any kind in the queue, with the names that users know instead of paths."""
    return {
        "status": job.status.value,
        "wanted": job.wanted.value,
        "priority": job.priority,
        "waiting": None if job.waiting is None else without_paths(job.waiting, names),
        "peak": job.peak,
    }


def error_of(job: Job, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Why a job has failed, with the names that users know instead of paths. None if it has not failed."""
    if job.error is None:
        return None
    return {"code": "job_failed", "message": without_paths(job.error, names), "param": None}


def _without_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a job, without its base and its rows, which have fields of their own. The method that the job
    uses is always included, even if the client did not name it."""
    data = {key: value for key, value in (settings.get("data") or {}).items() if key not in ("file", "eval_file")}
    rest = {key: value for key, value in settings.items() if key not in ("model", "data")}
    return {"method": _taken(settings), **rest, **({"data": data} if data else {})}


def _taken(settings: Mapping[str, Any]) -> str:
    """The method of a job that names none: that of the run whose adapter the job trains further, or the default."""
    start = (settings.get("train") or {}).get("from_adapter")
    run = None if start is None else run_of(Path(start))
    recorded = None if run is None else read_settings(run.path).get("method")
    return recorded if recorded in (Method.LORA.value, Method.QLORA.value) else DEFAULT_METHOD.value


def objective_of(job: Job) -> ObjectiveName:
    """The objective of a job. The jobs of an older studio are all supervised."""
    return ObjectiveName(job.settings.get("objective", ObjectiveName.SFT.value))


def _method(job: Job, hyper: Mapping[str, Any]) -> dict[str, Any] | None:
    """The method in OpenAI's form. None if OpenAI has none for the job's objective, which is then under `veneer`."""
    objective, details = objective_of(job), job.details
    kind = next((name for name, one in OBJECTIVES.items() if one is objective), None)
    if kind is None or (objective is ObjectiveName.GRPO and "grader" not in details):
        return None
    given = details.get("hyperparameters", {})
    own = {**hyper, **{name: given.get(name, "auto") for name in OWN_HYPERPARAMETERS.get(objective, ())}}
    if objective is not ObjectiveName.GRPO:
        return {"type": kind, kind: {"hyperparameters": own}}
    own["reasoning_effort"] = given.get("reasoning_effort", "default")
    return {"type": kind, kind: {"grader": details["grader"], "hyperparameters": own}}


def _estimated(run: RunRecord) -> int | None:
    if not run.step or run.begun is None or not run.steps:
        return None
    left = (run.steps - run.step) * run.seconds / run.step
    return int(run.begun + run.seconds + left)


def events_of(job: Job, log: RunLog | None, root: Path) -> list[dict[str, Any]]:
    """The events of a job and of its run, the newest first. No message contains a path below `root` or another path of
    this machine."""
    found = [*_notes(job.id, job.history), *(_run_events(job.id, log) if log is not None else [])]
    events = [event for _, _, event in sorted(found, key=lambda one: one[:2], reverse=True)]
    names = names_for_job(job, root)
    return [{**event, "message": without_paths(event["message"], names)} for event in events]


Placed = tuple[float, int, dict[str, Any]]
"""An event with its time, and its place among events with the same time."""


def _notes(job: str, history: Sequence[JobNote]) -> Iterator[Placed]:
    for place, note in enumerate(history):
        yield note.time, place, _event(f"ftevent-{job}-j{place}", note.time, note.level, note.message)


def _run_events(job: str, log: RunLog) -> Iterator[Placed]:
    for place, line in enumerate(log.lines):
        level = LEVELS.get(line.level.value, "info")
        # A client that pages through the events knows each by its number, even if lines were dropped in the meantime.
        name = f"ftevent-{job}-l{log.dropped + place}"
        yield line.time, 10_000 + place, _event(name, line.time, level, line.message)
    total = log.start.get("steps", 0)
    columns = log.columns
    for place, step in enumerate(list(log.steps)):
        data = {
            "step": step,
            "train_loss": finite(columns["loss"][place]),
            "total_steps": total,
            "learning_rate": finite(columns["learning_rate"][place]),
            "grad_norm": finite(columns["grad_norm"][place]),
        }
        time = columns["time"][place]
        said = f"Step {step}/{total}: training loss={columns['loss'][place]:.4f}"
        yield time, 20_000 + step, _event(f"ftevent-{job}-s{step}", time, "info", said, data)
    for one in log.evaluations:
        data = {"step": one.step, "valid_loss": finite(one.loss), "total_steps": total}
        said = f"Step {one.step}/{total}: validation loss={one.loss:.4f}"
        yield one.time, 10**9 + one.step, _event(f"ftevent-{job}-e{one.step}", one.time, "info", said, data)


def _event(name: str, time: float, level: str, message: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "fine_tuning.job.event",
        "created_at": int(time),
        "level": level,
        "message": message,
        "type": "message" if data is None else "metrics",
        "data": data,
    }


def checkpoints_of(job: Job, folder: RunFolder, log: RunLog) -> list[dict[str, Any]]:
    """The checkpoints that a job's run has kept, the newest first."""
    losses = dict(zip(log.steps, log.columns["loss"], strict=True))
    times = dict(zip(log.steps, log.columns["time"], strict=True))
    evaluations = {one.step: one.loss for one in log.evaluations}
    return [
        {
            "id": f"ftckpt-{job.id}-{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(times.get(step, job.created_at)),
            "fine_tuned_model_checkpoint": f"{model_of(job)}-step-{step}",
            "fine_tuning_job_id": job.id,
            "step_number": step,
            "metrics": {
                "step": float(step),
                **({"train_loss": losses[step]} if math.isfinite(losses.get(step, math.nan)) else {}),
                **({"valid_loss": evaluations[step]} if math.isfinite(evaluations.get(step, math.nan)) else {}),
            },
        }
        for step in reversed(folder.checkpoint_steps())
    ]


def finite(value: float | None) -> float | None:
    """The number, or None if JSON cannot represent it."""
    return value if value is not None and math.isfinite(value) else None


def page_of(items: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """A part of a list as OpenAI's API gives it.

    Args:
        items: the whole list.
        after: the id of the last item that the client has; None for the beginning.
        limit: the largest number of items.

    Raises:
        ApiError: 404 if no item has that id, for example because it was deleted. To begin again would repeat items.
    """
    begin = 0
    if after is not None:
        found = next((place for place, item in enumerate(items) if item["id"] == after), None)
        if found is None:
            message = f"after {after[:100]!r} is not in the list any more, or never was; begin again without it"
            raise ApiError(404, message, param="after", code="not_found")
        begin = found + 1
    shown = list(items[begin : begin + limit])
    return {
        "object": "list",
        "data": shown,
        "has_more": begin + limit < len(items),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }
