"""Work that may take long and cannot be stopped, on few threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


class NeverBegan(Exception):
    """The work has not begun, because other work has kept all threads."""


class SlowWork:
    """Work for the event loop's thread that is given up after some seconds.

    What is given up goes on until it ends by itself, since a thread cannot be stopped. It holds one of few threads
    meanwhile, so that it takes no more of the processor than these, and no work of another kind waits for it.

    Args:
        threads: how much is done at a time; more waits.
        seconds: that work waits for a thread at most, and that it may take once it has one. What it waits is not its
            own doing.
    """

    def __init__(self, threads: int, seconds: float):
        self._free, self._seconds = asyncio.Semaphore(threads), seconds

    async def do(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, or raises; RuntimeError in place of what is no `Exception`.

        Raises:
            NeverBegan: no thread was free in time.
            TimeoutError: the work takes too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError as error:
            raise NeverBegan from error
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        try:
            # The interpreter does not wait for such threads when it ends.
            Thread(target=self._run, args=(work, done), name="slow work", daemon=True).start()
        except RuntimeError:  # the system gives no further thread
            self._free.release()
            raise
        async with asyncio.timeout(self._seconds):
            return await done

    def _run(self, work: Callable[[], Result], done: asyncio.Future[Result]) -> None:
        try:
            tell = partial(done.set_result, work())
        except BaseException as error:
            # A library of Rust that panics raises what is no Exception, and the event loop is not to end by it.
            failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            tell = partial(done.set_exception, failure)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            done.get_loop().call_soon_threadsafe(self._end, done, tell)

    def _end(self, done: asyncio.Future[Result], tell: Callable[[], None]) -> None:
        self._free.release()
        if not done.done():
            tell()
