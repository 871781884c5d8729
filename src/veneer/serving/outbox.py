"""Passes events from the engine's thread to event loops.

If each token were sent by itself, an event loop would wake for every sequence of a step and compete with the engine's
thread for Python's lock, while the processors that compute the steps are idle. So all events of a step are sent
together, after the step.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from veneer.generation.request import GenerationEvent

Arrivals = asyncio.Queue[tuple[int, GenerationEvent] | None]
"""Events of the answers to one HTTP request, each with the number of its answer; None means that their time is up."""


class Outbox:
    """Keeps events until they are sent. All methods are called on the engine's thread."""

    def __init__(self) -> None:
        self._kept: dict[asyncio.AbstractEventLoop, list[tuple[Arrivals, int, GenerationEvent]]] = {}

    def put(self, loop: asyncio.AbstractEventLoop, arrivals: Arrivals, number: int, event: GenerationEvent) -> None:
        """Keep an event for a queue that belongs to a loop."""
        self._kept.setdefault(loop, []).append((arrivals, number, event))

    def send(self) -> None:
        """Put all kept events into their queues, in order. Each loop is woken once."""
        kept, self._kept = self._kept, {}
        for loop, events in kept.items():
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(_deliver, events)


def _deliver(events: list[tuple[Arrivals, int, GenerationEvent]]) -> None:
    for arrivals, number, event in events:
        arrivals.put_nowait((number, event))
