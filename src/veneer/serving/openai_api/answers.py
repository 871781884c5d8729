"""What chats and completions share in OpenAI's interface: the head of an answer, and the stream of its chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from veneer.generation.request import GenerationRequest
from veneer.http_server.errors import ApiError
from veneer.http_server.stream import LAST_EVENT, event
from veneer.serving.answers import Answers
from veneer.serving.openai_api.usage import Usage
from veneer.serving.service import VERSION, Service

FINGERPRINT_DIGITS = 12
"""Hexadecimal digits of each digest in a fingerprint."""


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields at the beginning of an answer and of each of its chunks.

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
    """The field that identifies what answered; see `fingerprint_of`."""
    return {"system_fingerprint": fingerprint_of(service.base_digest, keys)}


def fingerprint_of(base_digest: str, keys: Iterable[bytes | None]) -> str:
    """What answered: this version of veneer, the digest of the base, and the digest of the adapter.

    Args:
        base_digest: `Service.base_digest`.
        keys: the `adapter_key` of each answer, None for the base. If an adapter is reloaded while the answers of a
            request are being submitted to the engine, they may come from two versions; then both are named.
    """
    adapters = "+".join(dict.fromkeys(key.hex()[:FINGERPRINT_DIGITS] for key in keys if key is not None))
    return "-".join(filter(None, (f"veneer-{VERSION}", base_digest[:FINGERPRINT_DIGITS], adapters)))


async def chunks(
    service: Service,
    requests: Sequence[GenerationRequest],
    first: Mapping[str, Any],
    choices: Callable[[Answers], AsyncIterator[dict[str, Any]]],
    usage: Usage | None,
) -> AsyncGenerator[bytes]:
    """A streamed answer as server-sent events. If it fails, the error is the last event.

    Args:
        service: answers the requests.
        requests: the requests for all choices.
        first: the fields at the beginning of every chunk; see `head`.
        choices: turns the events of the answers into pieces of choices; each piece is sent in a chunk.
        usage: the usage that the last chunk reports, counted by `choices`; None if the request does not want it.
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
        yield LAST_EVENT
    except ApiError as error:
        yield event(service.counted_error(error))
