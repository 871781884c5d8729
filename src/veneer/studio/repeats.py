"""Requests that are sent again because their answer was lost on the way: what they make is made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from veneer.serving.errors import ApiError

KEY = "idempotency-key"
"""The header that tells a request from another one that asks for the same."""
MOST_KEYS = 1_000
"""Requests that are known again, the newest ones."""
LONGEST_KEY = 200


@dataclass(slots=True)
class _Asked:
    response: Response | None = None
    """None until it is made."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repeats:
    """Answers a request that names a key once, and as often as it is sent again by what was answered then.

    A refused one may be sent again with its key, and is then taken for a new one. A studio that is started again
    knows no keys.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    async def answer(self, request: Request, make: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a request.

        Args:
            request: its body is not read yet.
            make: carries it out.

        Raises:
            ApiError: 400, its key is too long.
        """
        key = request.headers.get(KEY)
        if key is None:
            return await make()
        if len(key) > LONGEST_KEY:
            message = f"{KEY}: the key has {len(key):,} characters, and may have {LONGEST_KEY}"
            raise ApiError(400, message, param=KEY)
        asked = self._asked.setdefault((request.url.path, key), _Asked())
        while len(self._asked) > MOST_KEYS:
            self._asked.popitem(last=False)
        async with asked.lock:  # the first one may be under way still
            if asked.response is None:
                asked.response = await make()
                return asked.response
        async for _ in request.stream():  # clients look for an answer when they have sent everything
            pass
        return asked.response
