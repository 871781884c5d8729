"""Routes that describe the server: models, health, version, metrics."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from veneer.http_server.errors import json_response
from veneer.serving.metrics import CONTENT_TYPE
from veneer.serving.served_adapters.catalogue import AdapterVersion
from veneer.serving.service import VERSION, Service


async def list_models(service: Service, request: Request) -> Response:
    """GET /v1/models: the base, then the adapters."""
    adapters = (_adapter(service, adapter) for adapter in service.models.adapters())
    return json_response({"object": "list", "data": [_base(service), *adapters]})


async def show_model(service: Service, request: Request) -> Response:
    """GET /v1/models/{model}."""
    adapter = service.models.adapter(request.path_params["model"] or None)
    return json_response(_base(service) if adapter is None else _adapter(service, adapter))


async def health(service: Service, request: Request) -> Response:
    """GET /health: 200, or 503 once the server accepts no further requests."""
    if service.draining or not service.accepting:
        return json_response({"status": "stopping"}, status=503)
    return json_response({"status": "ok"})


async def version(service: Service, request: Request) -> Response:
    """GET /version."""
    return json_response({"version": VERSION})


async def metrics(service: Service, request: Request) -> Response:
    """GET /metrics."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def tokenizer_info(service: Service, request: Request) -> Response:
    """GET /tokenizer_info: what clients need to know about the tokenizer if they make prompts themselves."""
    return json_response(service.prompts.tokenizer_info)


def _base(service: Service) -> dict[str, Any]:
    return _entry(service, service.models.base, None)


def _adapter(service: Service, adapter: AdapterVersion) -> dict[str, Any]:
    return {**_entry(service, adapter.name, service.models.base), "generation": adapter.generation}


def _entry(service: Service, name: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "veneer",
        "root": name,
        "parent": parent,
        "max_model_len": service.context,
    }
