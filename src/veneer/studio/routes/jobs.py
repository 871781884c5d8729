"""Routes for jobs: OpenAI's fine-tuning API, and the plan and the preview of a job before it is created."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from veneer.errors import DataError, VeneerError
from veneer.http_server.body import read_body
from veneer.http_server.errors import NO_RETRY, ApiError, json_response
from veneer.jobs.job import Job, JobKind, JobStatus
from veneer.run_folder import RunFolder
from veneer.studio.fields import whole, whole_in_query
from veneer.studio.inputs import check_device, config_of, inputs_of
from veneer.studio.job_request import job_request
from veneer.studio.objects import checkpoints_of, events_of, page_of
from veneer.studio.path_names import names_for_models, values_without_paths, without_paths
from veneer.studio.plans import command_line, plan_json, planned
from veneer.studio.previews import preview_rows
from veneer.studio.studio import Studio
from veneer.studio.tasks import job_values
from veneer.text.json_numbers import is_whole

MOST_LISTED = 1_000
"""The largest part of a list."""
LARGEST_ROW_NUMBER = 10**12
"""A number that is larger than the number of rows of any file."""
MOST_PREVIEWED_ROWS = 20
"""Largest number of rows in a preview."""


async def create(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs."""
    asked = job_request(await read_body(request, studio.limits))
    inputs = await asyncio.to_thread(inputs_of, studio, asked)
    check_device(studio, config_of(asked, inputs))
    details = {
        **asked.details,
        "model": asked.model,
        "training_file": asked.training_file,
        "validation_file": asked.validation_file,
        "rate_multiplier": asked.rate_multiplier,
        "called": dict(inputs.names),
    }
    await asyncio.to_thread(inputs.write_code)
    job = await asyncio.to_thread(
        studio.queue.create,
        inputs.settings_of(asked),
        details,
        priority=asked.priority,
        status=JobStatus.VALIDATING,
    )
    studio.checking.check_job(job)
    await studio.looked()
    return json_response(job_values(studio, job))


async def list_jobs(studio: Studio, request: Request) -> Response:
    """GET /v1/fine_tuning/jobs."""
    wanted = {
        key.removeprefix("metadata[").removesuffix("]"): value
        for key, value in request.query_params.items()
        if key.startswith("metadata[")
    }
    jobs = await asyncio.to_thread(studio.queue.jobs)
    await studio.caught_up(jobs)
    found = [
        job_values(studio, job)
        for job in jobs
        if job.kind is JobKind.TRAIN
        and all((job.details.get("metadata") or {}).get(key) == value for key, value in wanted.items())
    ]
    return json_response(_page(request, found))


async def retrieve(studio: Studio, request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{job}."""
    return json_response(job_values(studio, await _found(studio, request)))


async def events(studio: Studio, request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{job}/events; with `type`, only events of that type."""
    job = await _found(studio, request)
    run = studio.watcher.run(job.id)
    made = await asyncio.to_thread(events_of, job, None if run is None else run.log, studio.root)
    kind = request.query_params.get("type")
    return json_response(_page(request, [event for event in made if kind in (None, event["type"])]))


async def checkpoints(studio: Studio, request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{job}/checkpoints."""
    job = await _found(studio, request)
    run = studio.watcher.run(job.id)
    made = [] if run is None else checkpoints_of(job, RunFolder(studio.root / job.id), run.log)
    return json_response(_page(request, made))


async def cancel(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{job}/cancel."""
    return await _changed(studio, request, studio.queue.cancel, "cancelled")


async def pause(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{job}/pause."""
    return await _changed(studio, request, studio.queue.pause, "paused")


async def resume(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{job}/resume."""

    def resumed(name: str) -> Job | None:
        job = studio.queue.resume(name)
        if job is not None and job.status is JobStatus.VALIDATING:
            studio.checking.check_job(job)
        return job

    return await _changed(studio, request, resumed, "resumed")


async def move(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{job}/move: a new `priority`, or a place before the job `before` (null: last)."""
    body = await read_body(request, studio.limits)
    priority, before = body.get("priority"), body.get("before")
    if "before" in body:
        if before is not None and not isinstance(before, str):
            raise ApiError(400, "before: give the id of a job, or null", param="before")
        if priority is not None:
            raise ApiError(400, "give either priority or before, not both", param="priority")
        waiting = await asyncio.to_thread(studio.queue.waiting)
        if before is not None and before not in [job.id for job in waiting]:
            message = "before: no job with this id waits in the queue"
            raise ApiError(409, message, param="before", code="wrong_state", headers=NO_RETRY)
        return await _changed(studio, request, lambda job: studio.queue.put_before(job, before), "moved")
    if not is_whole(priority):
        raise ApiError(400, "give priority, a whole number, or before, the id of a job", param="priority")
    return await _changed(studio, request, lambda job: studio.queue.prioritise(job, priority), "moved")


async def order(studio: Studio, request: Request) -> Response:
    """GET /studio/queue: the ids of the waiting jobs, in the order in which workers will take them."""
    waiting = await asyncio.to_thread(studio.queue.waiting)
    return json_response({"waiting": [job.id for job in waiting]})


async def estimate(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/estimate: the plan of the job that this body would create."""
    asked = job_request(await read_body(request, studio.limits))
    inputs = await asyncio.to_thread(inputs_of, studio, asked)
    config = config_of(asked, inputs, "my-adapter")
    check_device(studio, config)
    try:
        plan = await studio.estimates.result(
            request, lambda emit: planned(config, asked.rate_multiplier, rows=studio.last_rows.load, emit=emit)
        )
    except VeneerError as error:
        message = without_paths(str(error), inputs.names)
        raise ApiError(400, message, code="cannot_be_planned") from error
    rate = None if asked.rate_multiplier is None else float(plan.config.train.learning_rate)
    models = [one for one in (config.model, config.distillation.teacher) if one is not None]
    names = {**names_for_models(models), **inputs.names}
    # The notes name rows by their files, and the settings have the sources of models and adapters.
    return json_response({**values_without_paths(plan_json(plan), names), "command": command_line(config, rate, names)})


async def preview(studio: Studio, request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/preview: rows of a file as tokens, and which of them are trained on."""
    body = await read_body(request, studio.limits)
    asked = job_request({key: value for key, value in body.items() if key not in ("first", "count")})
    first, count = (
        whole(body.get(name, default), name, 0, LARGEST_ROW_NUMBER) for name, default in (("first", 0), ("count", 3))
    )
    inputs = await asyncio.to_thread(inputs_of, studio, asked)
    config = config_of(asked, inputs)
    try:
        made = await asyncio.to_thread(preview_rows, config, first, min(count, MOST_PREVIEWED_ROWS))
    except DataError as error:
        raise ApiError(400, str(error).replace(str(inputs.rows), "the file")) from error
    except VeneerError as error:
        raise ApiError(400, str(error)) from error
    return json_response({"object": "veneer.preview", "rows": made})


async def _changed(studio: Studio, request: Request, change: Callable[[str], Job | None], done: str) -> Response:
    job = await _found(studio, request)
    made = await asyncio.to_thread(change, job.id)
    if made is None:
        now = await _found(studio, request)
        message = f"the job is {now.status.value} and cannot be {done}"
        raise ApiError(409, message, code="wrong_state", headers=NO_RETRY)
    await studio.looked()
    return json_response(job_values(studio, made))


async def _found(studio: Studio, request: Request) -> Job:
    job = studio.queue.get(request.path_params["job"])
    if job is None:
        raise ApiError(404, "there is no such job", param="fine_tuning_job_id", code="job_not_found")
    await studio.caught_up([job])
    return job


def _page(request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    return page_of(items, request.query_params.get("after"), whole_in_query(request, "limit", 20, 1, MOST_LISTED))
