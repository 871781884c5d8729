"""Requests that are sent again because their answer was lost on the way: what they make is made once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from veneer.http_server.body import bounded
from veneer.http_server.errors import ApiError

KEY = "idempotency-key"
"""The header that tells a request from another one that asks for the same."""
MOST_KEYS = 1_000
"""Requests that are known again, the newest ones."""
LONGEST_KEY = 200


@dataclass(slots=True)
class _Asked:
    response: Response | None = None
    """None until it is made."""
    body: bytes = b""
    """The digest of the body that was answered."""
    under_way: int = 0
    """Requests that make it, or wait for it."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repeats:
    """Answers a request that names a key once, and as often as it is sent again by what was answered then.

    One that is sent again while the first is under way waits for that. A refused one is not kept: the next with its
    key, also one that waits already, is taken for a new one. What is kept longest is forgotten, but nothing under way.
    A studio that is started again knows no keys.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    async def answer(self, request: Request, make: Callable[[Request], Awaitable[Any]], most: int) -> Any:
        """The answer to a request.

        Args:
            request: its body is not read yet.
            make: carries out what it is given, which is the request; its errors pass.
            most: bytes that its body may have where it is sent again.

        Raises:
            ApiError: 400, its key is too long, or was that of a request with another body; 413 and 408, as `bounded`.
        """
        key = request.headers.get(KEY)
        if key is None:
            return await make(request)
        if len(key) > LONGEST_KEY:
            message = f"{KEY}: the key has {len(key):,} characters, and may have {LONGEST_KEY}"
            raise ApiError(400, message, param=KEY)
        place, body = (request.url.path, key), _Digest(request)
        asked = self._asked.setdefault(place, _Asked())
        self._forget()
        asked.under_way += 1
        try:
            async with asked.lock:
                if asked.response is None:
                    made = await make(Request(request.scope, body.receive))
                    asked.response, asked.body = made, body.digest()
                    return made
        finally:
            asked.under_way -= 1
            if asked.response is None and not asked.under_way:
                del self._asked[place]
        receive = bounded(body.receive, most)
        while (await receive()).get("more_body", False):  # clients look for an answer when they have sent everything
            pass
        if body.digest() != asked.body:
            message = f"{KEY}: the key was given with another body before; give each request a key of its own"
            raise ApiError(400, message, param=KEY, code="idempotency_error")
        return asked.response

    def _forget(self) -> None:
        answered = (place for place, one in self._asked.items() if one.response is not None)
        if len(self._asked) > MOST_KEYS and (oldest := next(answered, None)) is not None:
            del self._asked[oldest]


class _Digest:
    """Takes the digest of a request's body as it is read. The boundary of a form, which is another one whenever it is
    sent, is left out."""

    def __init__(self, request: Request):
        self._receive = request.receive
        kind, options = parse_options_header(request.headers.get("content-type"))
        self._boundary = options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""
        self._hash = hashlib.sha256()
        self._rest = b""
        """The last bytes, in which a boundary may begin."""

    async def receive(self) -> Message:
        """See ASGI."""
        message = await self._receive()
        rest = self._rest + message.get("body", b"")
        if self._boundary:
            *parts, rest = rest.split(self._boundary)
            for part in parts:
                self._hash.update(part)
        ready = max(0, len(rest) - max(0, len(self._boundary) - 1))
        self._hash.update(rest[:ready])
        self._rest = rest[ready:]
        return message

    def digest(self) -> bytes:
        """The digest of what was read."""
        found = self._hash.copy()
        found.update(self._rest)
        return found.digest()
