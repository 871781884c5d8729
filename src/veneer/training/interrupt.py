"""Ctrl-C and SIGTERM as a request: the first lets the current step end and be saved, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible(on_request: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Within the block, yields a function that says whether a stop was asked for.

    Signal handlers belong to the main thread; only the command line uses this, never an import.

    Args:
        on_request: called once, when the first signal arrives.
    """
    requested = False

    def request(signum: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        on_request()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
