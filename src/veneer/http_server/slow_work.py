"""Work that may take long and cannot be stopped, on a few threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


class NeverBegan(Exception):
    """The work has not begun, because other work occupied all threads."""


class SlowWork:
    """Work for the event loop's thread that is given up after some seconds.

    Abandoned work continues until it ends by itself, because a thread cannot be stopped. Meanwhile it occupies one of a
    few threads, so it uses no more of the processor than these, and no work of another kind waits for it.

    Args:
        threads: how many pieces of work run at a time; others wait.
        seconds: the longest wait for a thread, and again the time limit once the work has one.
    """

    def __init__(self, threads: int, seconds: float):
        self._free, self._seconds = asyncio.Semaphore(threads), seconds

    async def do(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, or its error. Anything that is not an `Exception` becomes a RuntimeError.

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
        except RuntimeError:  # the system has no further thread
            self._free.release()
            raise
        async with asyncio.timeout(self._seconds):
            return await done

    def _run(self, work: Callable[[], Result], done: asyncio.Future[Result]) -> None:
        try:
            settle = partial(done.set_result, work())
        except BaseException as error:
            # A Rust library that panics raises something that is not an Exception, which must not end the event loop.
            failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            settle = partial(done.set_exception, failure)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            done.get_loop().call_soon_threadsafe(self._end, done, settle)

    def _end(self, done: asyncio.Future[Result], settle: Callable[[], None]) -> None:
        self._free.release()
        if not done.done():  # otherwise the work was given up
            settle()
