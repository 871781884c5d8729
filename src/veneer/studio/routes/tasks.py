"""Routes for evaluations and exports of finished runs: to start them, read their results, and download exports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from veneer.exports.record import PARITY_FILE, RECORD_FILE
from veneer.http_server.body import read_body
from veneer.http_server.errors import UNCACHED_HEADERS, ApiError, json_response
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import JobKind, JobStatus
from veneer.run_records.record import json_or_none
from veneer.studio.path_names import values_without_paths
from veneer.studio.studio import Studio
from veneer.studio.tasks import task_object, task_of, task_settings
from veneer.text.strict_json import to_text, with_reasons


async def evaluate(studio: Studio, request: Request) -> Response:
    """POST /studio/evaluations: score a finished run's adapter, and its base, on an uploaded file."""
    return await _made(studio, request, JobKind.EVALUATE)


async def export(studio: Studio, request: Request) -> Response:
    """POST /studio/exports: write a finished run's adapter as files that other programs load."""
    return await _made(studio, request, JobKind.EXPORT)


async def show_export(studio: Studio, request: Request) -> Response:
    """GET /studio/export?task=…: an export, with its certificate and its files."""
    job = task_of(studio, request, JobKind.EXPORT)
    folder = JobFolder(studio.root / job.id).export

    def read() -> dict[str, Any]:
        found = {"record": json_or_none(folder / RECORD_FILE), "parity": json_or_none(folder / PARITY_FILE)}
        names = {**studio.names_in(to_text(with_reasons(found)), job), str(folder): folder.name}
        return {
            "task": task_object(job, studio.root),
            **values_without_paths(found, names),
            "files": [{"name": name, "bytes": path.stat().st_size} for name, path in _files(folder).items()],
        }

    return json_response(with_reasons(await asyncio.to_thread(read)))


async def export_file(studio: Studio, request: Request) -> Response:
    """GET /studio/export/file?task=…&name=…: one of the files of an export."""
    folder = JobFolder(studio.root / task_of(studio, request, JobKind.EXPORT).id).export
    path = (await asyncio.to_thread(_files, folder)).get(request.query_params.get("name", ""))
    if path is None:
        raise ApiError(404, "name: the export has no such file", param="name")
    return FileResponse(path, media_type="application/octet-stream", filename=path.name, headers=UNCACHED_HEADERS)


def _files(folder: Path) -> dict[str, Path]:
    """The files of an export by their names. Only a file with one of these names is ever opened; links are left out."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in found}


async def _made(studio: Studio, request: Request, kind: JobKind) -> Response:
    body = await read_body(request, studio.limits)
    settings, details = await asyncio.to_thread(task_settings, studio, kind, body)
    job = await asyncio.to_thread(studio.queue.create, settings, details, kind=kind, status=JobStatus.VALIDATING)
    studio.checking.check_job(job)
    await studio.looked()
    return json_response(task_object(job, studio.root))
