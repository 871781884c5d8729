"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, which need keys of their own.

A client names an adapter in the server's own folder, and can never give a path.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from veneer.errors import AdapterError
from veneer.http_server.body import read_body
from veneer.http_server.errors import NO_RETRY, ApiError, json_response
from veneer.http_server.fields import Fields
from veneer.serving.served_adapters.catalogue import AdapterCatalogue, GenerationConflict, UnknownAdapter
from veneer.serving.service import Service

LOAD_PATH, UNLOAD_PATH = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


async def load_adapter(service: Service, request: Request) -> Response:
    """Load or reload an adapter. Running requests keep their version.

    Raises:
        ApiError: 404, there is no adapter of that name; 409, `expected_generation` is not the loaded one; 400, the
            adapter cannot be used (the earlier version stays), or it has the base's name.
    """
    fields = Fields(await read_body(request, service.limits))
    name, catalogue = _name(service, fields)
    if name == service.models.base:
        raise fields.wrong("lora_name", f"{name!r} is the base's name; give the adapter's folder another one")
    expected = fields.integer("expected_generation", 0, 2**62)
    fields.flag("load_inplace")
    fields.neutral("lora_path", name)
    try:
        async with service.loading:
            version = await asyncio.to_thread(catalogue.load, name, expected)
    except UnknownAdapter as error:
        raise _unknown(error) from error
    except GenerationConflict as error:
        # A client that retries by itself would do what the field is there to prevent.
        raise ApiError(409, str(error), param="expected_generation", headers=NO_RETRY) from error
    except AdapterError as error:
        raise ApiError(400, str(error), param="lora_name") from error
    content = {"lora_name": name, "generation": version.generation}
    return json_response(content, headers=service.ignored(fields))


async def unload_adapter(service: Service, request: Request) -> Response:
    """Forget an adapter. Running requests keep it.

    Raises:
        ApiError: 404, there is no adapter of that name.
    """
    fields = Fields(await read_body(request, service.limits))
    name, catalogue = _name(service, fields)
    fields.neutral("lora_int_id")
    try:
        await asyncio.to_thread(catalogue.unload, name)
    except UnknownAdapter as error:
        raise _unknown(error) from error
    return json_response({"lora_name": name, "unloaded": True}, headers=service.ignored(fields))


def _unknown(error: UnknownAdapter) -> ApiError:
    return ApiError(404, str(error), param="lora_name", code="model_not_found")


def _name(service: Service, fields: Fields) -> tuple[str, AdapterCatalogue]:
    name = fields.text("lora_name")
    if not name:
        raise fields.wrong("lora_name", "give the name of an adapter")
    if service.models.catalogue is None:
        raise ApiError(404, "this server has no folder of adapters; start it with --adapters FOLDER")
    return name, service.models.catalogue
