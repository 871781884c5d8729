"""Slow work is given up in time, holds its thread until it ends, and is nobody else's burden."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import pytest

from veneer.serving.slow_work import SlowWork


def test_results_and_failures_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def both() -> None:
        work = SlowWork(1, 20.0)
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
        for later in (go.wait, int):  # the one thread is taken, so that nothing else begins
            with pytest.raises(TimeoutError):
                await work.do(later)
        go.set()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(TimeoutError):
                assert await work.do(int) == 0
                return
        pytest.fail("the thread is not free again")

    asyncio.run(give_up())


def test_the_loop_may_end_before_the_work_does() -> None:
    go = threading.Event()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await SlowWork(1, 0.05).do(go.wait)

    asyncio.run(leave())
    go.set()
    until = time.monotonic() + 20
    while any(thread.name == "slow work" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
