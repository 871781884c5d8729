"""Answers that the engine's thread makes and the event loop's thread receives."""

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
        loop: the event loop that receives the answers.
        outbox: carries the events from the engine's thread.
        metrics: counts and times the answers.
        seconds: how long the answers may take, from now on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox, metrics: Metrics, seconds: float):
        self._loop, self._outbox, self._metrics, self._seconds = loop, outbox, metrics, seconds
        self._handles: list[GenerationHandle] = []
        self._arrived: Arrivals = asyncio.Queue()
        self._began, self._end = time.perf_counter(), loop.time() + seconds
        self._last_arrived: dict[int, float] = {}
        """When the last token of each answer came to the event loop."""
        self._first_made: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        """When the engine's thread made the first token of each answer, and when it ended the answer."""
        self._counted: set[int] = set()
        """The numbers of the answers whose end has been counted."""

    def submit(self, engine: EngineThread, request: GenerationRequest) -> None:
        """Ask the engine for one more answer; see `EngineThread.submit`."""
        self._handles.append(engine.submit(request, on_event=self._listener(len(self._handles))))

    def adapter_key(self, number: int) -> bytes | None:
        """The version of the adapter that made an answer; None is the base. It is known from the first event on."""
        return self._handles[number].adapter_key

    def durations(self, number: int) -> tuple[float, float]:
        """For an answer that has ended: the seconds until the engine made its first token, and from there to its end.
        The event loop may see both at once."""
        end = self._ended[number]
        first = self._first_made.get(number, end)
        return first - self._began, end - first

    def cancel(self) -> None:
        """Ask the engine to end the unfinished answers before its next step. No further events are received."""
        for number, handle in enumerate(self._handles):
            finished = handle.finished
            if finished is None:
                handle.cancel()
            if number not in self._counted:
                self._metrics.ended((FinishReason.CANCELLED if finished is None else finished.reason).value)

    async def events(self) -> AsyncIterator[tuple[int, GenerationEvent]]:
        """All events of all answers as they come, each with the number of its answer.

        Raises:
            ApiError: 500, the engine could not carry out a request; 400, the request is at fault; 504, the time is
                over.
        """
        # One timer serves all events: a timer for each would cost a tenth of what sending the event costs.
        timer = self._loop.call_at(self._end, self._arrived.put_nowait, None)
        try:
            left = len(self._handles)
            while left:
                arrived = await self._arrived.get()
                if arrived is None:
                    raise ApiError(
                        504,
                        f"the request took more than {self._seconds:g} seconds, the most that this server allows",
                        headers=NO_RETRY,  # a retry would take as long
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
        by_answer: list[list[GenerationEvent]] = [[] for _ in self._handles]
        async for number, event in self.events():
            by_answer[number].append(event)
        return [gathered(iter(events)) for events in by_answer]

    def _listener(self, number: int) -> Callable[[GenerationEvent], None]:
        """What the engine's thread calls with each event of an answer."""

        def listen(event: GenerationEvent) -> None:
            if isinstance(event, TokenMade):
                self._first_made.setdefault(number, time.perf_counter())
            elif isinstance(event, Finished):
                self._ended[number] = time.perf_counter()
            self._outbox.put(self._loop, self._arrived, number, event)

        return listen

    def _observe(self, number: int, event: GenerationEvent) -> None:
        """Record the times of an event that the event loop has received."""
        now = time.perf_counter()
        if isinstance(event, TokenMade):
            if number in self._last_arrived:
                self._metrics.between_tokens(now - self._last_arrived[number])
            else:
                self._metrics.first_token(now - self._began)
            self._last_arrived[number] = now
        elif isinstance(event, Finished):
            self._counted.add(number)
            self._metrics.finished(event.reason.value, now - self._began)


def _check(event: Finished) -> None:
    """Raise ApiError for an answer that did not end as it should."""
    if event.reason is FinishReason.ERROR:
        status = 400 if event.refused else 500
        # An immediate retry does not help when an adapter cannot be used or the engine has failed.
        headers = {} if event.refused else NO_RETRY
        raise ApiError(status, event.error or "the engine could not carry the request out", headers=headers)
    if event.reason is FinishReason.CANCELLED:
        raise ApiError(503, "the server is about to stop")
