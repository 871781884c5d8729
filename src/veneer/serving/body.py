"""Reading a request's JSON under limits: bytes, seconds, nesting and the number of values."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from veneer.data.json_values import BadRow, parse_row
from veneer.serving.errors import ApiError
from veneer.serving.limits import ServerLimits

MOST_VALUES = 300_000
"""Texts, lists and objects that JSON of clients may hold together. Numbers are not counted: prompts of tokens have
millions, which take a tenth of the time."""
MOST_DROPPED = 4
"""How many times the largest body is read and dropped before the client is told. Most clients look for an answer only
after they have sent everything."""


async def read_json(request: Request, limits: ServerLimits) -> dict[str, Any]:
    """The JSON object that a client sent.

    Raises:
        ApiError: 413, the body is too large; 408, it did not come in time; 415, it is compressed; 400, it is no JSON
            object, has too many values, or is nested too deeply.
    """
    _check_announced(request, limits.body_bytes)
    try:
        async with asyncio.timeout(limits.read_seconds):
            body = await _read(request, limits.body_bytes)
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
        413, f"the body has more than {most:,} bytes, the most that are taken", headers={"connection": "close"}
    )


async def _read(request: Request, most: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the client has gone")
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size <= most:
            pieces.append(piece)
        else:
            pieces.clear()
            more = more and size <= MOST_DROPPED * most
    if size > most:
        raise _too_large(most)
    return b"".join(pieces)


def too_many_values(text: str) -> bool:
    """Whether a text of JSON has more than `MOST_VALUES`. Python's parser does not let go of the interpreter while it
    makes the items of a list, so that millions of them would hold up everybody."""
    if text.count('"') + text.count("[") + text.count("{") <= MOST_VALUES:
        return False
    plain = text.replace(r"\\", "").replace('\\"', "")
    texts = plain.count('"') // 2
    if texts > MOST_VALUES:
        return True
    return texts + sum(piece.count("[") + piece.count("{") for piece in plain.split('"')[::2]) > MOST_VALUES


def _parse(body: bytes) -> dict[str, Any]:
    try:
        # Some clients on Windows begin a text with a byte order mark, which RFC 8259 lets a reader pass over.
        text = body.decode("utf-8-sig")
        if too_many_values(text):
            raise ApiError(
                400,
                f"the body has more than {MOST_VALUES:,} texts, lists and objects, the most that are taken",
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
