"""Slow work is given up in time, holds its thread until it ends, and is nobody else's burden."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import pytest

from veneer.http_server.slow_work import NeverBegan, SlowWork


def test_results_and_failures_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def both() -> None:
        work = SlowWork(1, 60.0)
        assert await asyncio.gather(*(work.do(lambda number=number: number * 2) for number in range(5))) == [
            0,
            2,
            4,
            6,
            8,
        ]
        with pytest.raises(ValueError, match="no"):
            await work.do(fail)
        assert await work.do(threading.get_ident) != threading.get_ident()

    asyncio.run(both())


def test_what_takes_too_long_is_given_up_and_holds_its_thread_until_it_ends() -> None:
    go = threading.Event()

    async def give_up() -> None:
        work = SlowWork(1, 0.2)
        with pytest.raises(TimeoutError):
            await work.do(go.wait)
        with pytest.raises(NeverBegan):  # the one thread is taken: that it is late is nothing of its own doing
            await work.do(int)
        go.set()
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with suppress(NeverBegan, TimeoutError):  # a busy machine may be slow to begin a thread
                assert await work.do(int) == 0
                return
        pytest.fail("the thread is not free again")

    asyncio.run(give_up())


def test_what_waits_for_a_thread_has_its_own_time_from_when_it_has_one() -> None:
    begun, go = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go.wait(60)

    async def second_is_late() -> None:
        work = SlowWork(1, 60.0)
        one = asyncio.ensure_future(work.do(first))
        other = asyncio.ensure_future(work.do(lambda: 1))
        assert await asyncio.to_thread(begun.wait, 60)
        assert not other.done()
        go.set()
        await one
        assert await other == 1

    asyncio.run(second_is_late())


def test_a_panic_of_a_library_is_an_error_and_leaves_its_thread_free() -> None:
    class PanicError(BaseException):
        """As pyo3 raises it: no Exception."""

    def panic() -> None:
        raise PanicError("index out of bounds")

    async def twice() -> None:
        work = SlowWork(1, 60.0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="PanicError: index out of bounds"):
                await work.do(panic)
        assert await work.do(int) == 0

    asyncio.run(twice())


def test_the_loop_may_end_before_the_work_does() -> None:
    go = threading.Event()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await SlowWork(1, 0.05).do(go.wait)

    asyncio.run(leave())
    go.set()
    until = time.monotonic() + 120
    while any(thread.name == "slow work" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
