"""The application: routes, and the gate in front of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from veneer.errors import VeneerError, where_raised
from veneer.serving import adapter_routes, facts, ollama, ollama_answers, tokens
from veneer.serving.answers import ClientGone
from veneer.serving.chat import chat_completions
from veneer.serving.completions import completions
from veneer.serving.errors import ApiError, json_response
from veneer.serving.guard import Access, Guard
from veneer.serving.page import page
from veneer.serving.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Any]]
log = logging.getLogger("veneer.serving")

GET: dict[str, Endpoint] = {
    "/": page,
    "/health": facts.health,
    "/version": facts.version,
    "/metrics": facts.metrics,
    "/tokenizer_info": facts.tokenizer_info,
    "/api/version": ollama.version,
    "/api/tags": ollama.tags,
    "/api/ps": ollama.running,
    "/v1/models": facts.list_models,
    "/v1/models/{model:path}": facts.show_model,
}
POST: dict[str, Endpoint] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/tokenize": tokens.tokenize,
    "/detokenize": tokens.detokenize,
    "/api/show": ollama.show,
    "/api/chat": ollama_answers.chat,
    "/api/generate": ollama_answers.generate,
}
ADMIN: dict[str, Endpoint] = {
    adapter_routes.LOAD: adapter_routes.load_adapter,
    adapter_routes.UNLOAD: adapter_routes.unload_adapter,
}
"""Routes that are there only where they have keys of their own."""


def build_app(service: Service, access: Access) -> ASGIApp:
    """The ASGI application of a service, for those whom `access` lets in."""
    admin = {} if access.admin_keys is None else ADMIN
    admin_routes = [_route(service, path, endpoint, "POST") for path, endpoint in admin.items()]
    routes: list[BaseRoute] = [_route(service, path, endpoint, "GET") for path, endpoint in GET.items()]
    routes += [_route(service, path, endpoint, "POST") for path, endpoint in POST.items()]
    access = replace(access, admin_routes=tuple(admin_routes))
    return Guard(_application(service, [*routes, *admin_routes]), access, on_refused=service.metrics.error)


def _route(service: Service, path: str, endpoint: Endpoint, method: str) -> Route:
    async def call(request: Request) -> Any:
        return await endpoint(service, request)

    return Route(path, call, methods=[method])


def _application(service: Service, routes: list[BaseRoute]) -> Starlette:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        service.metrics.error(error.status)
        if request.url.path.startswith("/api/"):
            # Ollama's clients read a text there.
            return json_response({"error": error.message}, status=error.status, headers=error.headers)
        return error.response()

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "there is no such route" if error.status_code == 404 else str(error.detail)
        return await refused(request, ApiError(error.status_code, message, headers=error.headers))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s", where_raised(error))
        return await refused(request, ApiError(500, "the server has failed on this request; its log says where"))

    async def mended(request: Request, error: Exception) -> Response:
        return await refused(request, ApiError(400, str(error)))

    handlers = {ApiError: refused, VeneerError: mended, HTTPException: unknown, ClientGone: gone, Exception: failed}
    return Starlette(routes=routes, exception_handlers=handlers)
