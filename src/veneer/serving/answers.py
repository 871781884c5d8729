"""Answers of the engine's thread, taken on the event loop's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from veneer.generation.engine_thread import EngineThread
from veneer.generation.request import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationHandle,
    GenerationRequest,
    GenerationResult,
    TokenMade,
    gathered,
)
from veneer.http_server.errors import NO_RETRY, ApiError
from veneer.serving.metrics import Metrics
from veneer.serving.outbox import Arrivals, Outbox


class Answers:
    """The answers to one HTTP request: one sequence or several.

    Args:
        loop: the loop that they are taken on.
        outbox: what the engine's thread sends its events by.
        metrics: counts and times them.
        seconds: how long they may take, from now on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox, metrics: Metrics, seconds: float):
        self._loop, self._outbox, self._metrics, self._seconds = loop, outbox, metrics, seconds
        self._handles: list[GenerationHandle] = []
        self._arrived: Arrivals = asyncio.Queue()
        self._began, self._end = time.perf_counter(), loop.time() + seconds
        self._last: dict[int, float] = {}
        self._first_made: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        """When the engine made the first token of each answer, and when it ended it, by its own thread."""
        self._counted: set[int] = set()
        """Numbers of the answers whose end has been counted."""

    def submit(self, front: EngineThread, request: GenerationRequest) -> None:
        """Ask the engine for one more answer; see `EngineThread.submit`."""
        self._handles.append(front.submit(request, on_event=self._listener(len(self._handles))))

    def adapter_key(self, number: int) -> bytes | None:
        """The version of the adapter that an answer comes from, known from its first event on; None is the base."""
        return self._handles[number].adapter_key

    def durations(self, number: int) -> tuple[float, float]:
        """Seconds until the engine had made the first token of an answer that has ended, and from there to its end. The
        loop may see both at once."""
        end = self._ended[number]
        first = self._first_made.get(number, end)
        return first - self._began, end - first

    def cancel(self) -> None:
        """Ask the engine to end what has not ended, before its next step; nobody takes events any more."""
        for number, handle in enumerate(self._handles):
            finished = handle.finished
            if finished is None:
                handle.cancel()
            if number not in self._counted:
                self._metrics.ended((FinishReason.CANCELLED if finished is None else finished.reason).value)

    async def events(self) -> AsyncIterator[tuple[int, GenerationEvent]]:
        """All events of all answers as they come, each with the number of its answer.

        Raises:
            ApiError: 500, the engine could not carry a request out; 400, what was asked is to blame; 504, the time is
                over.
        """
        # One timer for all of them: one for each event would take a tenth of what sending it does.
        timer = self._loop.call_at(self._end, self._arrived.put_nowait, None)
        try:
            left = len(self._handles)
            while left:
                arrived = await self._arrived.get()
                if arrived is None:
                    raise ApiError(
                        504,
                        f"the request took more than {self._seconds:g} seconds, the most that this server allows",
                        headers=NO_RETRY,  # which would take as long
                    )
                number, event = arrived
                self._observe(number, event)
                if isinstance(event, Finished):
                    left -= 1
                    _check(event)
                yield number, event
        finally:
            timer.cancel()

    async def results(self) -> list[GenerationResult]:
        """The whole answers.

        Raises:
            ApiError: as `events`.
        """
        found: list[list[GenerationEvent]] = [[] for _ in self._handles]
        async for number, event in self.events():
            found[number].append(event)
        return [gathered(iter(events)) for events in found]

    def _listener(self, number: int) -> Callable[[GenerationEvent], None]:
        def tell(event: GenerationEvent) -> None:
            if isinstance(event, TokenMade):
                self._first_made.setdefault(number, time.perf_counter())
            elif isinstance(event, Finished):
                self._ended[number] = time.perf_counter()
            self._outbox.put(self._loop, self._arrived, number, event)

        return tell

    def _observe(self, number: int, event: GenerationEvent) -> None:
        now = time.perf_counter()
        if isinstance(event, TokenMade):
            if number in self._last:
                self._metrics.between_tokens(now - self._last[number])
            else:
                self._metrics.first_token(now - self._began)
            self._last[number] = now
        elif isinstance(event, Finished):
            self._counted.add(number)
            self._metrics.finished(event.reason.value, now - self._began)


def _check(event: Finished) -> None:
    if event.reason is FinishReason.ERROR:
        status = 400 if event.refused else 500
        # An adapter that cannot be used, or an engine that has failed, is no better for being asked again at once.
        headers = {} if event.refused else NO_RETRY
        raise ApiError(status, event.error or "the engine could not carry the request out", headers=headers)
    if event.reason is FinishReason.CANCELLED:
        raise ApiError(503, "the server is about to stop")
