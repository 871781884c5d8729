"""Work that may take long and cannot be stopped, on few threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


class SlowWork:
    """Work for the event loop's thread that is given up after some seconds.

    What is given up goes on until it ends by itself, since a thread cannot be stopped. It holds one of few threads
    meanwhile, so that it takes no more of the processor than these, and no work of another kind waits for it.

    Args:
        threads: how much is done at a time; more waits.
        seconds: after which whoever asked is told, the time of waiting included.
    """

    def __init__(self, threads: int, seconds: float):
        self._free, self._seconds = asyncio.Semaphore(threads), seconds

    async def do(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, or raises.

        Raises:
            TimeoutError: the time is over.
        """
        async with asyncio.timeout(self._seconds):
            await self._free.acquire()
            done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            # The interpreter does not wait for such threads when it ends.
            Thread(target=self._run, args=(work, done), name="slow work", daemon=True).start()
            return await done

    def _run(self, work: Callable[[], Result], done: asyncio.Future[Result]) -> None:
        try:
            tell = partial(done.set_result, work())
        except Exception as error:
            tell = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            done.get_loop().call_soon_threadsafe(self._end, done, tell)

    def _end(self, done: asyncio.Future[Result], tell: Callable[[], None]) -> None:
        self._free.release()
        if not done.done():
            tell()
