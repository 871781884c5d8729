"""Routes for runs, used by the pages: a run, its curves, its report, notes on it, and changes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from dataclasses import asdict
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from veneer.config import RunConfig
from veneer.enums import JobCode
from veneer.evaluation.suites.registry import SUITES
from veneer.http_server.body import read_body
from veneer.http_server.errors import NO_RETRY, UNCACHED_HEADERS, ApiError, json_bytes, json_response
from veneer.io.files import write_text
from veneer.jobs.job import JobKind
from veneer.rewards.metric_reward import NAMES
from veneer.run_folder import RunFolder
from veneer.run_records.curves import MOST_POINTS, Along, curve_of
from veneer.run_records.log import RunLog
from veneer.run_records.record import by_key, default_settings, differing_settings, json_or_none
from veneer.studio.fields import number_of, whole_in_query
from veneer.studio.job_request import PATHS
from veneer.studio.objects import finite
from veneer.studio.path_names import values_without_paths, without_paths
from veneer.studio.results import results_of
from veneer.studio.studio import Studio
from veneer.studio.tasks import METRIC_NAMES, job_values, task_of
from veneer.studio.watch import NOTES, WatchedRun, read_extras
from veneer.text.strict_json import to_text, with_reasons
from veneer.training.evaluations.best import higher_is_better

CURVES = ("loss", "evaluation", "learning_rate", "grad_norm", "tokens_per_second", "memory_mb")
_EMBEDDED = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


async def changes(studio: Studio, request: Request) -> Response:
    """GET /studio/changes: the runs and jobs that have changed since an earlier answer, whose `version` is given as
    `since`. Without a version from this start of the studio, the answer has all of them (`whole`). `files` changes
    whenever a file is uploaded, checked or deleted."""
    epoch, _, number = request.query_params.get("since", "").partition("-")
    version = (number_of(number) or 0) if epoch == studio.watcher.epoch else 0
    found = studio.watcher.since(version)
    return json_response(
        {
            "version": f"{studio.watcher.epoch}-{found.version}",
            "whole": version == 0,
            "runs": [run_values(run) for run in found.runs],
            "removed": list(found.removed),
            "removed_jobs": list(found.removed_jobs),
            "jobs": [job_values(studio, job) for job in found.jobs],
            "files": studio.files.stamp,
        }
    )


def run_values(run: WatchedRun) -> dict[str, Any]:
    """A run as plain values; a number that is not finite is null."""
    values = asdict(run.record) | asdict(run.extras)
    values["path"] = run.record.path.as_posix()
    values["best_higher"] = higher_is_better(run.record.best_by)
    # These tell a page what it will show before the curves and the settings arrive, so that it can reserve the space.
    values["objective"] = run.settings.get("objective") or default_settings()["objective"]
    values["metrics"] = sorted(run.log.metrics)
    return {key: finite(value) if isinstance(value, float) else value for key, value in values.items()}


async def show_run(studio: Studio, request: Request) -> Response:
    """GET /studio/run?name=…: everything known about a run except its curves."""
    run = studio.run_of(request)
    defaults, folder = default_settings(), RunFolder(run.record.path)
    made = await asyncio.to_thread(results_of, studio.watcher, studio.bases.all())
    settings = [
        {"key": key, "value": value, "default": key in defaults and defaults[key] == value}
        for key, value in by_key(run.settings).items()
    ]
    found = {
        "record": run_values(run),
        "adapter": next((name for name, one in made.items() if one.run == run.name), None),
        "settings": settings,
        "log": await asyncio.to_thread(_log_of, studio, run),
        "checkpoints": folder.checkpoint_steps(),
        "skipped": run.log.skipped,
        "lock": await asyncio.to_thread(json_or_none, folder.lock_file),
        "summary": await asyncio.to_thread(json_or_none, folder.summary_file),
        "samples": [asdict(one) for one in run.log.samples],
        "judged": [asdict(one) for one in list(run.log.judged)],
    }
    return json_response(with_reasons(found))


async def differing(studio: Studio, request: Request) -> Response:
    """GET /studio/differing?name=…&name=…: the settings in which these runs differ; with `folder=…` instead, those in
    which the runs directly in a folder differ."""
    query = request.query_params
    if "folder" in query:
        runs = [run for run in studio.watcher.runs() if run.name.rpartition("/")[0] == query["folder"]]
    else:
        runs = [studio.run_named(name) for name in query.getlist("name")]
    found = await asyncio.to_thread(differing_settings, {run.name: run.settings for run in runs})
    return json_response(with_reasons({"settings": found}))


def _log_of(studio: Studio, run: WatchedRun) -> list[dict[str, Any]]:
    """The last lines of a run's log, with the names that users know instead of paths."""
    lines = run.log.lines[-200:]
    names = studio.names_in("\n".join(line.message for line in lines), studio.queue.get(run.name))
    return [{**asdict(line), "message": without_paths(line.message, names)} for line in lines]


async def curves(studio: Studio, request: Request) -> Response:
    """GET /studio/curves?name=…&along=step: a run's curves, thinned; with `format=csv`, a table of all steps."""
    run, query = studio.run_of(request), request.query_params
    along = query.get("along", "step")
    if along not in [one.value for one in Along]:
        raise ApiError(400, f"along must be one of {', '.join(one.value for one in Along)}", param="along")
    if query.get("format") == "csv":
        table = await asyncio.to_thread(_table, run.log)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name)
        headers = {"content-disposition": f'attachment; filename="{name}.csv"', **UNCACHED_HEADERS}
        return Response(table, media_type="text/csv", headers=headers)
    most = whole_in_query(request, "most", MOST_POINTS, 8, 20_000)

    def drawn() -> tuple[dict[str, Any], dict[str, Any]]:
        shared, own = (
            {name: asdict(curve_of(run.log, name, along=Along(along), most=most)) for name in names}
            for names in (CURVES, sorted(run.log.metrics))
        )
        return shared, own

    found, metrics = await asyncio.to_thread(drawn)
    return json_response({"name": run.name, "along": along, "curves": found, "metrics": metrics})


def _table(log: RunLog) -> str:
    target = io.StringIO()
    writer = csv.writer(target)
    columns = {**log.columns, **log.metrics}
    writer.writerow(["step", *columns])
    writer.writerows(zip(log.steps, *columns.values(), strict=True))
    return target.getvalue()


async def report(studio: Studio, request: Request) -> Response:
    """GET /studio/report?name=…: the values of the report next to the adapter; with `task=…`, those of the report of an
    evaluation job."""
    if "task" not in request.query_params:
        run = studio.run_of(request)
        job, file = studio.queue.get(run.name), RunFolder(run.record.path).report_file
    else:
        job = task_of(studio, request, JobKind.EVALUATE)
        file = RunFolder(studio.root / job.id).report_file

    def read() -> str | None:
        try:
            found = _EMBEDDED.search(file.read_text(encoding="utf-8"))
        except OSError:
            return None
        return None if found is None else found.group(1)

    text = await asyncio.to_thread(read)
    if text is None:
        message = "the run has no report; a run that keeps rows for evaluation writes one at its end"
        raise ApiError(404, f"{message}, unless it samples its answers or trains a reward model", param="name")

    def renamed(text: str) -> bytes:
        return json_bytes(with_reasons(values_without_paths(json.loads(text), studio.names_in(text, job))))

    try:
        content = await asyncio.to_thread(renamed, text)
    except (ValueError, RecursionError) as error:
        raise ApiError(404, "the run's report is damaged; `veneer evaluate` makes another one", param="name") from error
    return Response(content, media_type="application/json", headers=UNCACHED_HEADERS)


async def put_notes(studio: Studio, request: Request) -> Response:
    """PUT /studio/notes?name=…: keep text and tags in the run's folder.

    `before` has the text and tags that the caller has seen. If the notes have changed since, they are not replaced.
    """
    run, body = studio.run_of(request), await read_body(request, studio.limits)
    text, tags = body.get("text", ""), body.get("tags", [])
    fine = isinstance(text, str) and len(text) <= 20_000 and isinstance(tags, list) and len(tags) <= 32
    if not fine or not all(isinstance(tag, str) and 0 < len(tag) <= 64 for tag in tags):
        raise ApiError(400, "notes have text of up to 20,000 characters, and up to 32 tags of 1 to 64", param="notes")
    tags = list(dict.fromkeys(tags))
    before, notes = body.get("before"), {"text": text, "tags": tags}

    def replaced() -> bool:
        with studio.notes_lock:
            now = read_extras(RunFolder(run.record.path))
            if before is not None and before != {"text": now.text, "tags": list(now.tags)}:
                return False
            write_text(run.record.path / NOTES, to_text(notes) + "\n")
            return True

    if not await asyncio.to_thread(replaced):
        message = "these notes were changed since they were read, perhaps in another tab; read them again first"
        raise ApiError(409, message, param="before", code="changed", headers=NO_RETRY)
    await studio.looked()
    return json_response(notes)


async def options(studio: Studio, request: Request) -> Response:
    """GET /studio/options: the choices in the form of a new job, such as bases, settings with their values, devices."""
    defaults = default_settings()
    settings = [
        {"key": key, "text": text, "default": defaults[key], "is_text": _is_text(annotation)}
        for key, text, annotation in _fields(RunConfig)
        if key in defaults and key not in PATHS
    ]
    adapters = await asyncio.to_thread(studio.chat.adapters)
    return json_response(
        {
            "models": list(studio.bases.all()),
            "settings": settings,
            "devices": list(studio.workers.devices),
            "preferences": studio.preferences_file.is_file(),
            "adapters": {name: studio.bases.name_of(source) for name, (source, _) in adapters.items()},
            "judges": [name for name, one in results_of(studio.watcher, studio.bases.all()).items() if one.scores],
            "metrics": list(NAMES),
            "code": studio.job_code is JobCode.RUN,
            "measured": list(METRIC_NAMES),
            "suites": list(SUITES),
        }
    )


def _fields(section: type[BaseModel], prefix: str = "") -> list[tuple[str, str, Any]]:
    """The dotted keys of settings, each with its description and type."""
    found: list[tuple[str, str, Any]] = []
    for name, info in section.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _fields(inner, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", info.description or "", inner))
    return found


def _is_text(annotation: Any) -> bool:
    """Whether a setting of this type is a string, so that the input 2026 is a string too."""
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    return {get_args(one)[0] if get_origin(one) is Annotated else one for one in members} - {NoneType} == {str}
