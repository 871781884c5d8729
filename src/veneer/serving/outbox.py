"""Events of the engine's thread on their way to event loops.

An event loop that is told of each token by itself wakes as often as there are sequences, and then takes turns with the
engine's thread at Python's lock, while the processors that compute the steps rest. So what a step has made goes
together, when the step has ended.
"""

from __future__ import annotations

import asyncio

from veneer.generation.request import GenerationEvent

Arrivals = asyncio.Queue[tuple[int, GenerationEvent] | None]
"""Events of the answers to one HTTP request, each with the number of its answer; None says that their time is over."""


class Outbox:
    """Keeps events until they are sent. All methods are called on the engine's thread."""

    def __init__(self) -> None:
        self._kept: dict[asyncio.AbstractEventLoop, list[tuple[Arrivals, int, GenerationEvent]]] = {}

    def put(self, loop: asyncio.AbstractEventLoop, arrivals: Arrivals, number: int, event: GenerationEvent) -> None:
        """Keep an event for a queue that belongs to a loop."""
        self._kept.setdefault(loop, []).append((arrivals, number, event))

    def send(self) -> None:
        """Put all that is kept into its queues, in its order; each loop is woken once."""
        kept, self._kept = self._kept, {}
        for loop, events in kept.items():
            loop.call_soon_threadsafe(_deliver, events)


def _deliver(events: list[tuple[Arrivals, int, GenerationEvent]]) -> None:
    for arrivals, number, event in events:
        arrivals.put_nowait((number, event))
