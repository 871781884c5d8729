"""What a step has made reaches each event loop at once, in its order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from veneer.generation.request import TokenMade
from veneer.serving.outbox import Arrivals, Outbox


def made(token: int) -> TokenMade:
    return TokenMade(token, "", None)


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts how often another thread has woken it."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        self.woken += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_events_of_a_step_arrive_in_their_order_and_wake_the_loop_once() -> None:
    outbox, loop = Outbox(), CountingLoop()

    async def taken() -> list[list[int]]:
        queues: list[Arrivals] = [asyncio.Queue(), asyncio.Queue()]

        def engine() -> None:
            for token in range(20):
                outbox.put(loop, queues[token % 2], token % 2, made(token))
            outbox.send()
            outbox.send()

        thread = threading.Thread(target=engine)
        thread.start()
        found = [[await queue.get() for _ in range(10)] for queue in queues]
        thread.join()
        assert {number for number, _ in found[1]} == {1}
        return [[event.token for _, event in events if isinstance(event, TokenMade)] for events in found]

    try:
        assert loop.run_until_complete(taken()) == [list(range(0, 20, 2)), list(range(1, 20, 2))]
    finally:
        loop.close()
    assert loop.woken == 1


def test_each_loop_gets_its_own_events() -> None:
    outbox = Outbox()
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    queues: list[Arrivals] = [asyncio.Queue(), asyncio.Queue()]
    for number, (loop, queue) in enumerate(zip(loops, queues, strict=True)):
        outbox.put(loop, queue, number, made(number))
    outbox.send()
    for number, (loop, queue) in enumerate(zip(loops, queues, strict=True)):
        assert loop.run_until_complete(queue.get()) == (number, made(number))
        assert queue.empty()
        loop.close()


def test_a_loop_that_has_ended_keeps_nothing_from_others() -> None:
    outbox, ended, running = Outbox(), asyncio.new_event_loop(), asyncio.new_event_loop()
    ended.close()
    queue: Arrivals = asyncio.Queue()
    outbox.put(ended, asyncio.Queue(), 0, made(0))
    outbox.put(running, queue, 1, made(1))
    outbox.send()
    assert running.run_until_complete(queue.get()) == (1, made(1))
    running.close()
