"""A tracker as a subscriber, with its own queue and thread.

A run never waits for a tracker: if the queue is full, an event is dropped and counted. A tracker that fails is given
up, and one that hangs is abandoned when the run has ended; both are then reported. The trackers of a run end at the
same time, so that several that hang cost no more than one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from veneer.events import Event, Level, Note, StageBegun, StageEnded, StageProgress, Subscriber
from veneer.text.counting import count_of
from veneer.trackers.board import TrackedOutcome

ROOM = 10_000
"""The most events that wait for a tracker."""
END_SECONDS = 20.0
"""Seconds that a tracker has after the run for the waiting events."""
Told = Event | TrackedOutcome
"""What a tracker receives: the events of a run, and its outcome."""


class TrackerFailed(Exception):
    """A tracker has ended with its own error, whose text is the message."""


class Tracker(Protocol):
    """Draws or keeps the events of a run. All methods except `abandon` are called in one thread."""

    def take(self, told: Told) -> None:
        """Take one event, or the outcome."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...

    def abandon(self) -> None:
        """End at once; called from another thread. Waiting events are lost."""
        ...


class TrackerQueue:
    """Passes a run's events to a tracker. It is a context manager, which begins and ends the tracker.

    Args:
        name: the name of the tracker for people.
        start: makes the tracker, in the tracker's own thread.
        emit: receives a warning at the end if something went wrong.
        room: the most events that wait.
        end_seconds: seconds that the tracker has after the run for the waiting events.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Tracker],
        emit: Subscriber,
        *,
        room: int = ROOM,
        end_seconds: float = END_SECONDS,
    ):
        self._name, self._start, self._emit, self._end_seconds = name, start, emit, end_seconds
        self._told: queue.Queue[Told] = queue.Queue(room)
        self._tracker: Tracker | None = None
        self._ending = threading.Event()
        self._end_by = 0.0
        # Not the thread's own `join` and `is_alive`: after a signal during `join` Python 3.11 calls it ended.
        self._ended = threading.Event()
        self._dropped = 0
        self._error: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"veneer-{name}", daemon=True)

    def __call__(self, event: Event) -> None:
        """Take an event, without waiting. Stages only matter to a waiting user, and are ignored."""
        if not isinstance(event, StageBegun | StageProgress | StageEnded):
            self._put(event)

    def conclude(self, outcome: TrackedOutcome) -> None:
        """Take the outcome of the run, without waiting."""
        self._put(outcome)

    def _put(self, told: Told) -> None:
        if self._error is not None:
            return
        try:
            self._told.put_nowait(told)
        except queue.Full:
            self._dropped += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin_end()
        waited = False
        try:
            self._ended.wait(max(0.0, self._end_by - time.monotonic()))
            waited = True
        finally:  # Ctrl-C ends the wait, and then too no process of a tracker may be left behind
            problem = self._problem(waited)
            if not self._ended.is_set() and self._tracker is not None:
                self._tracker.abandon()
                self._ended.wait(1.0)  # it releases what it holds
            if problem is not None:
                said = f"the tracker {self._name} {problem}; the run is not affected"
                self._emit(Note(message=said, level=Level.WARNING))

    def begin_end(self) -> None:
        """Let the tracker end after the waiting events, without waiting for it. Its seconds begin to count."""
        if not self._ending.is_set():
            self._end_by = time.monotonic() + self._end_seconds
            self._ending.set()

    def _problem(self, waited: bool) -> str | None:
        if self._error is not None:
            return f"has failed: {self._error}"
        if not self._ended.is_set():
            when = f"did not end within {self._end_seconds:g} s" if waited else "had not ended when it was interrupted"
            return f"{when}, so the events that were still waiting are lost"
        if self._dropped:
            were = "was" if self._dropped == 1 else "were"
            return f"was too slow, so {count_of(self._dropped, 'event')} {were} dropped"
        return None

    def _work(self) -> None:
        try:
            tracker = self._tracker = self._start()
            while not (self._ending.is_set() and self._told.empty()):
                try:
                    told = self._told.get(timeout=0.1)
                except queue.Empty:
                    continue
                tracker.take(told)
            tracker.close()
        except TrackerFailed as error:
            self._error = str(error)
        except Exception as error:  # a library may raise anything, and the run must not be affected
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._ended.set()
