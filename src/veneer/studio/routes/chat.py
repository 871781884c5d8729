"""Routes for answers: those of `veneer serve`, for any base or adapter of the studio, and those for marked
preferences."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veneer.data.files.json_values import BadRow
from veneer.data.forms.preference import to_pair
from veneer.http_server.body import read_body
from veneer.http_server.errors import UNCACHED_HEADERS, ApiError, json_bytes, json_response
from veneer.io.files import reported
from veneer.serving.model_names import no_model
from veneer.serving.openai_api.chat import chat_completions
from veneer.serving.openai_api.completions import completions
from veneer.serving.service import Service
from veneer.studio.files import StoredFile
from veneer.studio.job_request import EXTENSION
from veneer.studio.objects import file_object
from veneer.studio.studio import PREFERENCES, Studio
from veneer.text.strict_json import to_text
from veneer.text.whole_lines import append_line

LONGEST_TEXT_CHARS = 100_000
"""Largest number of characters of a text that is kept as a preference."""
Answering = Callable[[Service, Request], Awaitable[Any]]
"""A route of `veneer serve`."""


async def list_models(studio: Studio, request: Request) -> Response:
    """GET /v1/models: the bases, then the adapters, each with its base as `parent`."""
    return json_response({"object": "list", "data": list((await _models(studio)).values())})


async def show_model(studio: Studio, request: Request) -> Response:
    """GET /v1/models/{model}."""
    name, models = request.path_params["model"], await _models(studio)
    if name not in models:
        raise no_model(name, list(models))
    return json_response(models[name])


async def chat(studio: Studio, request: Request) -> Any:
    """POST /v1/chat/completions."""
    return await _answered(studio, request, chat_completions)


async def complete(studio: Studio, request: Request) -> Any:
    """POST /v1/completions."""
    return await _answered(studio, request, completions)


async def _answered(studio: Studio, request: Request, answer: Answering) -> Any:
    """The answer of the model that a request names. The model stays in memory until the whole answer is sent."""
    body = await read_body(request, studio.limits)
    held_as = _held_as(body.pop(EXTENSION, None))
    async with AsyncExitStack() as held:
        service = await held.enter_async_context(studio.chat.service_for(body.get("model"), held_as))
        response = await answer(service, _again(request, body))
        return HeldResponse(response, held.pop_all())


def _held_as(extension: object) -> object:
    """The field of a request that says how the base is held (`ChatHost.service_for`)."""
    if extension is None:
        return None
    if not isinstance(extension, dict) or extension.keys() - {"held_as"}:
        raise ApiError(400, f"{EXTENSION} of a request for an answer has only the field held_as", param=EXTENSION)
    return extension.get("held_as")


class HeldResponse:
    """An ASGI response that holds resources until it is sent.

    Args:
        response: the response to send.
        held: the resources, which are released when the response is sent.
    """

    def __init__(self, response: ASGIApp, held: AsyncExitStack):
        self._response, self._held = response, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with self._held:
            await self._response(scope, receive, send)


async def prefer(studio: Studio, request: Request) -> Response:
    """POST /studio/preferences: a conversation with the better and the worse answer, as a row to train on."""
    body = await read_body(request, studio.limits)
    prompt = body.get("prompt")
    texts = [body.get("chosen"), body.get("rejected")]
    fine = isinstance(prompt, list) and 0 < len(prompt) <= 200 and all(_is_message(one) for one in prompt)
    if not fine or not all(isinstance(text, str) and len(text) <= LONGEST_TEXT_CHARS for text in texts):
        raise ApiError(400, "a preference has prompt (messages), chosen and rejected (strings)", param="prompt")
    row = {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": texts[0]}],
        "rejected": [{"role": "assistant", "content": texts[1]}],
    }
    try:
        to_pair(row, PREFERENCES)
    except BadRow as error:  # one such row would make the whole file unusable, and no page can remove it
        raise ApiError(400, f"this preference cannot be trained on: {error}", param="prompt") from error
    line = to_text(row, ensure_ascii=False).encode() + b"\n"

    def keep() -> int:
        path = studio.preferences_file
        with reported(path), path.open("ab", buffering=0) as file:
            append_line(file, line)  # an incomplete row would make the whole file unusable
        return path.read_bytes().count(b"\n")  # texts may contain other line separators

    return json_response({"kept": await asyncio.to_thread(keep)})


async def preferences(studio: Studio, request: Request) -> Response:
    """GET /studio/preferences: the kept rows, as JSONL."""
    file = studio.preferences_file
    text = await asyncio.to_thread(lambda: file.read_text(encoding="utf-8") if file.is_file() else "")
    headers = {"content-disposition": f'attachment; filename="{PREFERENCES}"', **UNCACHED_HEADERS}
    return Response(text, media_type="application/jsonl", headers=headers)


async def train_on_preferences(studio: Studio, request: Request) -> Response:
    """POST /studio/preferences/file: make an uploaded file of the kept rows, for use in a job."""
    await read_body(request, studio.limits)
    source = studio.preferences_file
    if not source.is_file():
        raise ApiError(400, "no preference is kept yet; mark the better one of two answers first")

    def copied() -> StoredFile:
        with studio.files.new(PREFERENCES, "fine-tune") as (stored, place):
            shutil.copyfile(source, place)
        return stored

    file = studio.file_of((await asyncio.to_thread(copied)).id, "file")
    studio.checking.check_file(file)
    return json_response(file_object(file))


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and all(isinstance(one, str) and len(one) <= LONGEST_TEXT_CHARS for one in value.values())
    )


def _again(request: Request, body: dict[str, Any]) -> Request:
    """The request with its body, which was read already, so that it can be read once more."""
    pieces: list[Message] = [{"type": "http.request", "body": json_bytes(body), "more_body": False}]

    async def receive() -> Message:
        return pieces.pop() if pieces else await request.receive()

    return Request(request.scope, receive)


async def _models(studio: Studio) -> dict[str, dict[str, Any]]:
    """The bases, then the adapters, by their names."""
    adapters = await asyncio.to_thread(studio.chat.adapters)
    made = {name: _entry(studio, name, studio.bases.name_of(source)) for name, (source, _) in adapters.items()}
    return {**{name: _entry(studio, name, None) for name in studio.bases.all()}, **made}


def _entry(studio: Studio, name: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(studio.begun),
        "owned_by": "veneer",
        "root": name,
        "parent": parent,
    }
