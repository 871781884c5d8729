"""The answers to a request, on the event loop's thread, from a stand-in for the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from veneer.generation.engine import EngineStats
from veneer.generation.engine_thread import EngineThread
from veneer.generation.request import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationHandle,
    GenerationRequest,
    TokenMade,
)
from veneer.serving.answers import Answers
from veneer.serving.metrics import Metrics
from veneer.serving.outbox import Outbox


class AtOnce(EngineThread):
    """Makes a token at 3 seconds and another one at 5, and ends the answer at 7, before anybody looks."""

    def __init__(self, clock: list[float]):
        self.clock = clock

    def submit(
        self, request: GenerationRequest, *, on_event: Callable[[GenerationEvent], None] | None = None
    ) -> GenerationHandle:
        assert on_event is not None
        for seconds in (3.0, 5.0):
            self.clock[0] = seconds
            on_event(TokenMade(1, "a", None))
        self.clock[0] = 7.0
        end = Finished(reason=FinishReason.LENGTH, text="", prompt_tokens=1, cached_tokens=0, new_tokens=2)
        on_event(end)
        return GenerationHandle(request, on_event)


def never() -> EngineStats:
    raise AssertionError("nobody asks for figures")


def test_durations_are_those_of_the_engine_where_the_loop_sees_all_events_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1.0]
    monkeypatch.setattr("veneer.serving.answers.time.perf_counter", lambda: clock[0])

    async def taken() -> tuple[float, float]:
        outbox = Outbox()
        answers = Answers(asyncio.get_running_loop(), outbox, Metrics("m", never), 60.0)
        answers.submit(AtOnce(clock), GenerationRequest(prompt=(1,)))
        clock[0] = 20.0
        outbox.send()
        assert len([event async for _, event in answers.events()]) == 3
        return answers.durations(0)

    assert asyncio.run(taken()) == (2.0, 4.0)
