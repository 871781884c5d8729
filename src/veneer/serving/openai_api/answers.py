"""What chats and completions have alike in OpenAI's interface: the head of an answer, and a stream of its chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from veneer.generation.request import GenerationRequest
from veneer.http_server.errors import ApiError
from veneer.http_server.stream import DONE, event
from veneer.serving.answers import Answers
from veneer.serving.openai_api.usage import Usage
from veneer.serving.service import VERSION, Service

DIGITS = 12
"""Hexadecimal digits of a digest in a fingerprint."""


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields that an answer, and each of its chunks, begins with.

    Args:
        prefix: the first part of the answer's id.
        kind: OpenAI's `object`.
        model: the name that the request gave.
    """
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def fingerprint(service: Service, keys: Iterable[bytes | None]) -> dict[str, str]:
    """The field that says what answered; see `fingerprint_of`."""
    return {"system_fingerprint": fingerprint_of(service.base_digest, keys)}


def fingerprint_of(base_digest: str, keys: Iterable[bytes | None]) -> str:
    """What answered: this version of veneer, the base by its digest, and the adapter by its own.

    Args:
        base_digest: `Service.base_digest`.
        keys: `adapter_key` of the answers, None for the base. Where an adapter is loaded anew while a request's answers
            are handed to the engine one after another, they may come from two versions, and both are named.
    """
    adapters = "+".join(dict.fromkeys(key.hex()[:DIGITS] for key in keys if key is not None))
    return "-".join(filter(None, (f"veneer-{VERSION}", base_digest[:DIGITS], adapters)))


async def chunks(
    service: Service,
    requests: Sequence[GenerationRequest],
    first: Mapping[str, Any],
    choices: Callable[[Answers], AsyncIterator[dict[str, Any]]],
    usage: Usage | None,
) -> AsyncGenerator[bytes]:
    """A streamed answer, as server-sent events. An error is its last one.

    Args:
        service: answers.
        requests: those of all choices.
        first: the fields that every chunk begins with; see `head`.
        choices: makes pieces of choices of the events of the answers; each is sent in a chunk.
        usage: what the last chunk says, counted by `choices`; None where the request does not want it.
    """
    more = {} if usage is None else {"usage": None}
    heads: dict[int, dict[str, Any]] = {}
    try:
        async with service.answers(requests) as answers:
            async for choice in choices(answers):
                number = choice["index"]
                if number not in heads:
                    heads[number] = {**first, **fingerprint(service, [answers.adapter_key(number)])}
                yield event({**heads[number], "choices": [choice], **more})
        if usage is not None:
            own = fingerprint(service, [answers.adapter_key(number) for number in range(len(requests))])
            yield event({**first, **own, "choices": [], "usage": usage.content})
        yield DONE
    except ApiError as error:
        yield event(service.failed(error))
