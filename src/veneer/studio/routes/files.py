"""Routes for files: OpenAI's files API, with the lint on every upload."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from veneer.enums import ObjectiveName
from veneer.errors import VeneerError
from veneer.http_server.errors import NO_RETRY, UNCACHED_HEADERS, ApiError, json_response
from veneer.studio.checking import lint_page
from veneer.studio.fields import whole_in_query
from veneer.studio.objects import file_object, page_of
from veneer.studio.studio import Studio
from veneer.studio.uploads import receive_file

MOST_FILES = 10_000
"""The largest number of files in one answer, which is also OpenAI's default."""


async def upload(studio: Studio, request: Request) -> Response:
    """POST /v1/files."""
    file = await receive_file(request, studio.files)
    studio.checking.check_file(file)
    return json_response(file_object(file))


async def list_files(studio: Studio, request: Request) -> Response:
    """GET /v1/files."""
    purpose = request.query_params.get("purpose")
    files = [file for file in await asyncio.to_thread(studio.files.all) if purpose in (None, file.purpose)]
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order {order[:40]!r} must be asc (the oldest first) or desc", param="order")
    if order == "asc":
        files.reverse()
    most = whole_in_query(request, "limit", MOST_FILES, 1, MOST_FILES)
    return json_response(page_of([file_object(file) for file in files], request.query_params.get("after"), most))


async def retrieve_file(studio: Studio, request: Request) -> Response:
    """GET /v1/files/{file}."""
    return json_response(file_object(studio.file_of(request.path_params["file"], "file_id")))


async def file_content(studio: Studio, request: Request) -> Response:
    """GET /v1/files/{file}/content."""
    file = studio.file_of(request.path_params["file"], "file_id")
    return FileResponse(
        studio.files.content(file),
        media_type="application/octet-stream",
        filename=file.filename,
        headers=UNCACHED_HEADERS,
    )


async def delete_file(studio: Studio, request: Request) -> Response:
    """DELETE /v1/files/{file}. A file that a job still needs is not deleted."""
    file = studio.file_of(request.path_params["file"], "file_id")
    for job in await asyncio.to_thread(studio.queue.jobs):
        named = [job.details.get(key) for key in ("training_file", "validation_file", "file")]
        if file.id in named and not job.status.ended:
            raise ApiError(409, f"the job {job.id} needs the file", headers=NO_RETRY)
    try:
        await asyncio.to_thread(studio.files.delete, file)
    except VeneerError as error:
        raise ApiError(500, "the file cannot be deleted now") from error
    return json_response({"id": file.id, "object": "file", "deleted": True})


async def lint_file(studio: Studio, request: Request) -> Response:
    """GET /studio/lint?file=…&model=…: findings and rows of a file, as `veneer data` shows them."""
    file = studio.file_of(request.query_params.get("file"), "file")
    name = request.query_params.get("model")
    model = studio.bases.source(name) if name else None
    objective = ObjectiveName.GRPO if file.asks else None
    try:
        found = await studio.lints.result(
            request, lambda emit: lint_page(studio.files.content(file), model, objective, emit)
        )
    except VeneerError as error:
        message = str(error).replace(str(studio.files.content(file)), file.filename)
        raise ApiError(400, message, param="file") from error
    text = str(studio.files.content(file))
    for row in found["rows"]:
        row["where"] = row["where"].replace(text, file.filename)
    return json_response({**found, "files": [file.filename]})
