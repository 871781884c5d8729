"""What chats and completions have alike in OpenAI's interface: the head of an answer, and a stream of its chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from veneer.generation.request import GenerationRequest
from veneer.serving.answers import Answers
from veneer.serving.errors import ApiError
from veneer.serving.service import FINGERPRINT, Service
from veneer.serving.stream import DONE, event
from veneer.serving.usage import Usage


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields that an answer, and each of its chunks, begins with.

    Args:
        prefix: of the answer's id.
        kind: what it is, OpenAI's `object`.
        model: the name that the request gave.
    """
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": FINGERPRINT,
    }


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
    try:
        async with service.answers(requests) as answers:
            async for choice in choices(answers):
                yield event({**first, "choices": [choice], **more})
        if usage is not None:
            yield event({**first, "choices": [], "usage": usage.content})
        yield DONE
    except ApiError as error:
        yield event(service.failed(error))
