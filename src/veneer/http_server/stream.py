"""Answers that are sent piece by piece, as server-sent events or as lines of JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from starlette.types import Receive, Scope, Send

from veneer.http_server.client_gone import ClientGone, unless_gone
from veneer.http_server.errors import json_bytes

EVENT_STREAM_TYPE = "text/event-stream; charset=utf-8"
JSON_LINES_TYPE = "application/x-ndjson"
LAST_EVENT = b"data: [DONE]\n\n"


def event(content: object) -> bytes:
    """A server-sent event with a value as JSON."""
    return b"data: " + json_bytes(content) + b"\n\n"


def line(content: object) -> bytes:
    """A value as a line of JSON."""
    return json_bytes(content) + b"\n"


class StreamedResponse:
    """An ASGI response whose pieces are sent as they come. If the client disconnects, the generator of the pieces is
    closed at once.

    Args:
        pieces: makes the body; it reports errors in the body's own form.
        media_type: the media type of the body.
        headers: further headers.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str]):
        self._pieces, self._media_type, self._headers = pieces, media_type, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = {"content-type": self._media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
        pairs = [(key.encode(), value.encode()) for key, value in {**headers, **self._headers}.items()]

        async def pump() -> None:
            async with aclosing(self._pieces) as pieces:
                await send({"type": "http.response.start", "status": 200, "headers": pairs})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

        with suppress(ClientGone):
            await unless_gone(receive, pump())
