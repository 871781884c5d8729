"""Ctrl-C in a program that calls veneer, as scripts and notebooks have it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from veneer.events import Event, RunEvent, StepDone, Subscriber


@contextmanager
def pressed_after(step: int) -> Iterator[Subscriber]:
    """A subscriber that presses Ctrl-C once, when the first run has made so many steps. Tests may run in the background
    of a shell, which lets its children ignore SIGINT: within the block the handler is Python's own."""
    waiting = [step]

    def press(event: Event) -> None:
        own = event.event if isinstance(event, RunEvent) else event
        if isinstance(own, StepDone) and own.step in waiting:
            waiting.clear()
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield press
    finally:
        signal.signal(signal.SIGINT, before)
