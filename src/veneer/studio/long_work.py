"""Long work that a client waits for. It runs one piece after another on a thread of its own, so that it does not hold
up the pages.

An estimate reads and tokenises all rows of its file, and the form asks for one after each change. Work for which nobody
waits any more is not begun, or is given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from veneer.events import Event, Subscriber
from veneer.http_server.client_gone import ClientGone, unless_gone

T = TypeVar("T")


class LongWork:
    """Carries out work that clients wait for, on one thread.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._closing = threading.Event()

    async def result(self, request: Request, work: Callable[[Subscriber], T]) -> T:
        """The result of some work. The work begins when all earlier work is done.

        Args:
            request: the request of the client that waits; its body has been read.
            work: the work. It gets a subscriber for its progress, which ends the work if nobody waits any more.

        Raises:
            ClientGone: the client has closed its connection.
        """
        gone = threading.Event()

        def hear(event: Event) -> None:
            if gone.is_set() or self._closing.is_set():
                raise ClientGone

        try:
            future = self._pool.submit(work, hear)
            return await unless_gone(request.receive, asyncio.wrap_future(future))
        finally:
            gone.set()

    def close(self) -> None:
        """Begin no further work, and give up the work under way."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
