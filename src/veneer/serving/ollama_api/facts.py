"""Ollama's routes that describe the server: /api/version, /api/tags, /api/ps and /api/show.

Programs that know only Ollama poll these. Names may end with `:latest`, which Ollama adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from veneer.http_server.body import read_body
from veneer.http_server.errors import json_response
from veneer.http_server.fields import Fields
from veneer.serving.service import VERSION, Service

LATEST_SUFFIX = ":latest"


async def version(service: Service, request: Request) -> Response:
    """GET /api/version."""
    return json_response({"version": VERSION})


async def tags(service: Service, request: Request) -> Response:
    """GET /api/tags: the base and the adapters."""
    return json_response({"models": [_entry(service, name) for name in service.models.all()]})


async def running(service: Service, request: Request) -> Response:
    """GET /api/ps: the models in memory. The base always is."""
    never = _time(datetime(9999, 1, 1, tzinfo=UTC))
    return json_response({"models": [{**_entry(service, service.models.base), "expires_at": never, "size_vram": 0}]})


async def show(service: Service, request: Request) -> Response:
    """POST /api/show.

    Raises:
        ApiError: 404, no model has the name.
    """
    fields = Fields(await read_body(request, service.limits))
    name, older = fields.text("model"), fields.text("name")
    model = named(service, name or older)
    info = {"general.architecture": "veneer", "veneer.context_length": service.context}
    return json_response(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(service, model),
            "model_info": info,
            "capabilities": ["completion", *(["tools"] if service.prompts.takes_tools else [])],
        },
        headers=service.ignored(fields),
    )


def named(service: Service, name: str | None) -> str:
    """The name of a model without Ollama's `:latest`.

    Raises:
        ApiError: 400, there is no name; 404, no model has the name.
    """
    # Only the name of the base may itself end so: names of adapters have no colon.
    model = name if name is None or name == service.models.base else name.removesuffix(LATEST_SUFFIX)
    service.models.adapter_of(model)
    assert model is not None
    return model


def now() -> str:
    """The current time in Ollama's format."""
    return _time(datetime.now(UTC))


def _time(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _entry(service: Service, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _time(datetime.fromtimestamp(service.created, UTC)),
        "size": 0,
        "digest": sha256("\n".join(filter(None, (name, service.base_form))).encode()).hexdigest(),
        "details": _details(service, name),
    }


def _details(service: Service, name: str) -> Mapping[str, Any]:
    parent = "" if name == service.models.base else service.models.base
    empty = dict.fromkeys(("format", "family", "parameter_size", "quantization_level"), "")
    return {"parent_model": parent, "families": None, **empty}
