"""The application: routes, and the gate in front of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from veneer.http_server.error_handlers import error_handlers
from veneer.http_server.errors import ApiError, json_response
from veneer.http_server.guard import Access, Guard
from veneer.serving import facts, tokens
from veneer.serving.ollama_api import answers as ollama_answers
from veneer.serving.ollama_api import facts as ollama
from veneer.serving.openai_api.chat import chat_completions
from veneer.serving.openai_api.completions import completions
from veneer.serving.page import page
from veneer.serving.served_adapters import routes as adapter_routes
from veneer.serving.service import Service

Endpoint = Callable[[Service, Request], Awaitable[ASGIApp]]
log = logging.getLogger("veneer.serving")

GET_ROUTES: dict[str, Endpoint] = {
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
POST_ROUTES: dict[str, Endpoint] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/tokenize": tokens.tokenize,
    "/detokenize": tokens.detokenize,
    "/api/show": ollama.show,
    "/api/chat": ollama_answers.chat,
    "/api/generate": ollama_answers.generate,
}
ADMIN_ROUTES: dict[str, Endpoint] = {
    adapter_routes.LOAD_PATH: adapter_routes.load_adapter,
    adapter_routes.UNLOAD_PATH: adapter_routes.unload_adapter,
}
"""Routes that exist only if the server has admin keys."""


def build_app(service: Service, access: Access) -> ASGIApp:
    """The ASGI application of a service, for the clients that `access` admits."""
    admin = {} if access.admin_keys is None else ADMIN_ROUTES
    admin_routes = [_route(service, path, endpoint, "POST") for path, endpoint in admin.items()]
    routes: list[BaseRoute] = [_route(service, path, endpoint, "GET") for path, endpoint in GET_ROUTES.items()]
    routes += [_route(service, path, endpoint, "POST") for path, endpoint in POST_ROUTES.items()]
    access = replace(access, admin_routes=tuple(admin_routes))
    return Guard(_application(service, [*routes, *admin_routes]), access, on_refused=service.metrics.error)


def _route(service: Service, path: str, endpoint: Endpoint, method: str) -> Route:
    async def call(request: Request) -> ASGIApp:
        return await endpoint(service, request)

    return Route(path, call, methods=[method])


def _application(service: Service, routes: list[BaseRoute]) -> Starlette:
    def refusal(request: Request, error: ApiError) -> Response:
        service.metrics.error(error.status)
        if request.url.path.startswith("/api/"):
            # Ollama's clients expect a string here.
            return json_response({"error": error.message}, status=error.status, headers=error.headers)
        return error.response()

    return Starlette(routes=routes, exception_handlers=error_handlers(refusal, log, "the server"))
