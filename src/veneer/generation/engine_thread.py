"""A thread that steps an engine, with methods that any thread may call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from veneer.errors import VeneerError
from veneer.generation.engine import EngineStats, GenerationEngine
from veneer.generation.request import GenerationEvent, GenerationHandle, GenerationRequest

POLL_SECONDS = 0.02
"""The seconds between two checks of `drain` whether all requests have ended."""


class EngineClosed(VeneerError):
    """The engine accepts no more requests."""


class EngineThread:
    """Steps an engine on a thread of its own as long as there is something to do.

    Events come on that thread; see `GenerationHandle`. Only `drain` and `close` wait.

    Args:
        engine: the engine, which from now on only this object may use.
        after_step: called on that thread after every step, and after the last events, for listeners that pass the
            events of a step on together.
    """

    def __init__(self, engine: GenerationEngine, after_step: Callable[[], None] = lambda: None):
        self._engine, self._after_step = engine, after_step
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._accepting = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="veneer-engine", daemon=True)
        self._thread.start()

    def submit(
        self, request: GenerationRequest, *, on_event: Callable[[GenerationEvent], None] | None = None
    ) -> GenerationHandle:
        """Accept a request; see `GenerationEngine.submit`.

        Raises:
            EngineClosed: the engine is closed, is being drained or has failed.
            AdapterError, ConfigError: see `GenerationEngine.submit`.
        """
        with self._lock:
            if not self._accepting:
                raise EngineClosed("the engine is shutting down and accepts no more requests")
            handle = self._engine.submit(request, on_event=on_event, wake=self._wake.set)
        self._wake.set()
        return handle

    def check(self, request: GenerationRequest) -> None:
        """See `GenerationEngine.check`."""
        self._engine.check(request)

    @property
    def accepting(self) -> bool:
        """Whether requests are accepted."""
        return self._accepting

    def stats(self) -> EngineStats:
        """The state and the counters of the engine; see `EngineStats`."""
        return self._engine.stats()

    def drain(self, timeout: float) -> bool:
        """Accept no further requests, and wait until the open ones have ended, but no longer than this many seconds.

        Returns whether all have ended.
        """
        with self._lock:
            self._accepting = False
        end = time.monotonic() + timeout
        while not self._engine.idle and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return self._engine.idle

    def close(self) -> None:
        """End all requests as cancelled, and stop the thread. A second call does nothing."""
        with self._lock:
            self._accepting, self._closing = False, True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wake.clear()
                more = self._engine.step()
                self._after_step()
                if not more and not self._closing:
                    self._wake.wait()
        finally:
            # If a step has raised, Python prints the error at the thread's end; no caller may wait forever.
            with self._lock:
                self._accepting = False
            # If a listener raises in one of these, the next ones still run; the last one runs first.
            with ExitStack() as ends:
                ends.callback(self._after_step)
                ends.callback(self._engine.close)
                if not self._closing:
                    ends.callback(self._engine.fail, "the engine has failed and is closed; its log has the reason")
