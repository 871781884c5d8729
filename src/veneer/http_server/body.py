"""Reading a request's JSON under limits: bytes, seconds, nesting and the number of values."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Receive

from veneer.data.files.json_values import BadRow, parse_row
from veneer.http_server.client_gone import ClientGone
from veneer.http_server.errors import ApiError
from veneer.http_server.limits import ServerLimits

MOST_JSON_VALUES = 300_000
"""Texts, lists and objects that JSON of clients may hold together. Numbers are not counted: prompts of tokens have
millions, which take a tenth of the time."""
MOST_DROPPED_BYTES = 64 << 20
"""Bytes beyond the limit that are read and dropped before the client gets the error. Most clients read an answer only
after they have sent everything."""
STALL_SECONDS = 30.0
"""Seconds within which some part of a body must come."""


async def read_body(request: Request, limits: ServerLimits) -> dict[str, Any]:
    """The JSON object that a client sent.

    Raises:
        ApiError: 413, the body is too large; 408, it did not come in time; 415, it is compressed; 400, it is not a JSON
            object, has too many values, or is nested too deeply.
        ClientGone: the client has closed its connection.
    """
    _check_announced(request, limits.body_bytes)
    try:
        async with asyncio.timeout(limits.read_seconds):
            body = await _read(bounded(request.receive, limits.body_bytes))
    except TimeoutError:
        raise ApiError(
            408, f"the body did not come within {limits.read_seconds:g} seconds", headers={"connection": "close"}
        ) from None
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            415,
            f"content-encoding: {coding[:32]!r}, but a body must be plain JSON; send it without compression",
            code="unsupported_encoding",
            headers={"accept-encoding": "identity"},
        )
    return await asyncio.to_thread(_parse, body)


def _check_announced(request: Request, most: int) -> None:
    """Raise ApiError for a body that a client announces, and sends only if it is asked to (`expect: 100-continue`)."""
    size = request.headers.get("content-length", "0")
    if request.headers.get("expect", "").lower() == "100-continue" and size.isdecimal() and int(size) > most:
        raise _too_large(most)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body has more than {most:,} bytes, the most that are accepted", headers={"connection": "close"}
    )


def bounded(receive: Receive, most: int) -> Receive:
    """ASGI's `receive` of a request's body, which refuses to take more than `most` bytes, and to wait for long.

    It raises ApiError (413, 408), and ClientGone if the client has closed its connection.
    """
    taken = 0

    async def piece() -> Message:
        nonlocal taken
        try:
            async with asyncio.timeout(STALL_SECONDS):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, f"nothing came for {STALL_SECONDS:g} s", headers={"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        taken += len(message.get("body", b""))
        return message

    async def within() -> Message:
        message = await piece()
        if taken <= most:
            return message
        while message.get("more_body", False) and taken <= most + MOST_DROPPED_BYTES:
            message = await piece()
        raise _too_large(most)

    return within


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


def too_many_values(text: str) -> bool:
    """Whether JSON text has more than `MOST_JSON_VALUES`. Python's parser does not release the interpreter while it
    makes the items of a list, so millions of them would delay all other requests."""
    if text.count('"') + text.count("[") + text.count("{") <= MOST_JSON_VALUES:
        return False
    plain = text.replace(r"\\", "").replace('\\"', "")
    texts = plain.count('"') // 2
    if texts > MOST_JSON_VALUES:
        return True
    return texts + sum(piece.count("[") + piece.count("{") for piece in plain.split('"')[::2]) > MOST_JSON_VALUES


def _parse(body: bytes) -> dict[str, Any]:
    try:
        # Some clients on Windows begin a text with a byte order mark, which RFC 8259 allows a reader to ignore.
        text = body.decode("utf-8-sig")
        if too_many_values(text):
            raise ApiError(
                400,
                f"the body has more than {MOST_JSON_VALUES:,} texts, lists and objects, the most that are accepted",
                code="invalid_json",
            )
        value = parse_row(text)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 text (byte {error.start})", code="invalid_json") from error
    except BadRow as error:
        raise ApiError(400, f"the body cannot be read: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value
