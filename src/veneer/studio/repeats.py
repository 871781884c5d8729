"""Requests that are sent again because their answer was lost on the way. What they create is created only once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from veneer.http_server.body import bounded
from veneer.http_server.errors import ApiError

KEY_HEADER = "idempotency-key"
"""The header that distinguishes a request from another one with the same content."""
MOST_KEYS = 1_000
"""The number of requests that are remembered, the newest ones."""
LONGEST_KEY_CHARS = 200


@dataclass(slots=True)
class _Asked:
    response: ASGIApp | None = None
    """The answer; None until it is made."""
    body: bytes = b""
    """The digest of the body that was answered."""
    under_way: int = 0
    """The number of requests that make the answer or wait for it."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repeats:
    """Carries out a request that names a key only once. When it is sent again, it gets the first answer.

    A request that is sent again while the first is under way waits for its answer. A refusal is not kept: the next
    request with its key, even one that waits already, is treated as new. The oldest answers are forgotten first, but
    never a request under way. A studio that is started again knows no keys.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    async def answer(self, request: Request, make: Callable[[Request], Awaitable[ASGIApp]], most: int) -> ASGIApp:
        """The answer to a request.

        Args:
            request: the request; its body has not been read.
            make: carries out the request that it is given. Its errors are passed on.
            most: the largest body, in bytes, of a request that is sent again.

        Raises:
            ApiError: 400 if the key is too long, or belongs to a request with another body; 413 and 408 as `bounded`
                raises them.
        """
        key = request.headers.get(KEY_HEADER)
        if key is None:
            return await make(request)
        if len(key) > LONGEST_KEY_CHARS:
            message = f"{KEY_HEADER}: the key has {len(key):,} characters, and may have {LONGEST_KEY_CHARS}"
            raise ApiError(400, message, param=KEY_HEADER)
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
        while (await receive()).get("more_body", False):  # clients read the answer only when they have sent everything
            pass
        if body.digest() != asked.body:
            message = f"{KEY_HEADER}: the key was given with another body before; give each request a key of its own"
            raise ApiError(400, message, param=KEY_HEADER, code="idempotency_error")
        return asked.response

    def _forget(self) -> None:
        answered = (place for place, one in self._asked.items() if one.response is not None)
        if len(self._asked) > MOST_KEYS and (oldest := next(answered, None)) is not None:
            del self._asked[oldest]


class _Digest:
    """Computes the digest of a request's body while it is read. The boundary of a form is left out, since it is
    different each time the form is sent."""

    def __init__(self, request: Request):
        self._receive = request.receive
        kind, options = parse_options_header(request.headers.get("content-type"))
        self._boundary = options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""
        self._hash = hashlib.sha256()
        self._rest = b""
        """The last bytes read; a boundary may begin in them."""

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
        """The digest of everything that was read."""
        found = self._hash.copy()
        found.update(self._rest)
        return found.digest()
