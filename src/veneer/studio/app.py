"""The application of the studio: its routes, and the gates in front of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from veneer.errors import OutputError
from veneer.http_server.error_handlers import Handlers, error_handlers
from veneer.http_server.errors import ApiError, json_response
from veneer.http_server.guard import Access, Guard
from veneer.serving.service import VERSION
from veneer.studio import pages
from veneer.studio.path_names import names_for_folder, names_for_models, without_paths
from veneer.studio.routes import chat as chat_routes
from veneer.studio.routes import files as file_routes
from veneer.studio.routes import jobs as job_routes
from veneer.studio.routes import runs as run_routes
from veneer.studio.routes import tasks as task_routes
from veneer.studio.sessions import SessionGate
from veneer.studio.studio import Studio
from veneer.studio.uploads import MOST_UPLOAD_BYTES

StudioEndpoint = Callable[[Studio, Request], Awaitable[ASGIApp]]
REFUSALS, ANSWERED = "x-refusals", "answered"
"""The header, and its value, with which the pages ask to get a refusal as an ordinary answer."""
log = logging.getLogger("veneer.studio")


async def health(studio: Studio, request: Request) -> Response:
    """GET /health: 200, or 503 as soon as the studio is stopping."""
    return json_response({"status": "stopping"}, status=503) if studio.draining else json_response({"status": "ok"})


async def version(studio: Studio, request: Request) -> Response:
    """GET /version."""
    return json_response({"version": VERSION})


JOBS, FILES = "/v1/fine_tuning/jobs", "/v1/files"
ROUTES: dict[tuple[str, str], StudioEndpoint] = {
    ("GET", "/"): pages.index,
    ("GET", "/static/{path:path}"): pages.static,
    ("GET", "/health"): health,
    ("GET", "/version"): version,
    ("POST", FILES): file_routes.upload,
    ("GET", FILES): file_routes.list_files,
    ("GET", f"{FILES}/{{file}}"): file_routes.retrieve_file,
    ("GET", f"{FILES}/{{file}}/content"): file_routes.file_content,
    ("DELETE", f"{FILES}/{{file}}"): file_routes.delete_file,
    ("POST", JOBS): job_routes.create,
    ("GET", JOBS): job_routes.list_jobs,
    ("POST", f"{JOBS}/estimate"): job_routes.estimate,
    ("POST", f"{JOBS}/preview"): job_routes.preview,
    ("GET", f"{JOBS}/{{job}}"): job_routes.retrieve,
    ("GET", f"{JOBS}/{{job}}/events"): job_routes.events,
    ("GET", f"{JOBS}/{{job}}/checkpoints"): job_routes.checkpoints,
    ("POST", f"{JOBS}/{{job}}/cancel"): job_routes.cancel,
    ("POST", f"{JOBS}/{{job}}/pause"): job_routes.pause,
    ("POST", f"{JOBS}/{{job}}/resume"): job_routes.resume,
    ("POST", f"{JOBS}/{{job}}/move"): job_routes.move,
    ("GET", "/v1/models"): chat_routes.list_models,
    ("GET", "/v1/models/{model:path}"): chat_routes.show_model,
    ("POST", "/v1/chat/completions"): chat_routes.chat,
    ("POST", "/v1/completions"): chat_routes.complete,
    ("GET", "/studio/changes"): run_routes.changes,
    ("GET", "/studio/run"): run_routes.show_run,
    ("GET", "/studio/differing"): run_routes.differing,
    ("GET", "/studio/curves"): run_routes.curves,
    ("GET", "/studio/report"): run_routes.report,
    ("GET", "/studio/options"): run_routes.options,
    ("PUT", "/studio/notes"): run_routes.put_notes,
    ("POST", "/studio/evaluations"): task_routes.evaluate,
    ("POST", "/studio/exports"): task_routes.export,
    ("GET", "/studio/export"): task_routes.show_export,
    ("GET", "/studio/export/file"): task_routes.export_file,
    ("GET", "/studio/queue"): job_routes.order,
    ("GET", "/studio/lint"): file_routes.lint_file,
    ("POST", "/studio/preferences"): chat_routes.prefer,
    ("GET", "/studio/preferences"): chat_routes.preferences,
    ("POST", "/studio/preferences/file"): chat_routes.train_on_preferences,
}
MAKING = (
    FILES, JOBS, "/studio/evaluations", "/studio/exports", "/studio/preferences", "/studio/preferences/file"
)  # fmt: skip
"""The routes that create something: a request that is sent again must not create it twice."""


def build_studio_app(studio: Studio, access: Access) -> ASGIApp:
    """The ASGI application of a studio. It serves requests that `access` admits and that have a key or a session."""
    routes: list[BaseRoute] = [_route(studio, path, endpoint, method) for (method, path), endpoint in ROUTES.items()]
    said = partial(_said, studio)
    handlers: Handlers = {**error_handlers(said, log, "the studio"), OutputError: partial(_unwritten, said)}
    return Guard(SessionGate(Starlette(routes=routes, exception_handlers=handlers), studio.sessions), access)


def _route(studio: Studio, path: str, endpoint: StudioEndpoint, method: str) -> Route:
    async def call(request: Request) -> ASGIApp:
        if studio.draining and path != "/health":
            raise ApiError(503, "the studio is about to stop", headers={"retry-after": "1"})
        if method == "POST" and path in MAKING:
            most = MOST_UPLOAD_BYTES if path == FILES else studio.limits.body_bytes
            return await studio.repeats.answer(request, lambda sent: endpoint(studio, sent), most)
        return await endpoint(studio, request)

    return Route(path, call, methods=[method])


async def _unwritten(said: Callable[[Request, ApiError], Response], request: Request, error: Exception) -> Response:
    # The path is for the person who runs the studio: clients can do nothing about it.
    log.error("%s", error)
    message = "it cannot be written, perhaps because the studio's disk is full; see the studio's log, then ask again"
    return said(request, ApiError(507, message))


def _said(studio: Studio, request: Request, given: ApiError) -> Response:
    """A refusal, without paths of this machine. The studio's own pages ask to get it as a successful answer, with its
    status in a header: Chromium reports every other status as an error of the page, and unfinished input is not one."""
    names = {**names_for_folder(studio.root), **names_for_models(studio.bases.all().values())}
    message = without_paths(given.message, names)
    error = ApiError(given.status, message, param=given.param, code=given.code, headers=given.headers)
    if request.headers.get(REFUSALS) != ANSWERED or error.status >= 500:
        return error.response()
    return json_response(error.content, headers={**error.headers, "x-refused": str(error.status)})
