"""A tracker that fails, hangs or is slow changes nothing of a run, and is told of when the run has ended."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from helpers.run_folders.run_logs import finished, started, step_done
from veneer.events import Event, Note, StageBegun
from veneer.trackers.board import TrackedOutcome
from veneer.trackers.queue import Told, Tracker, TrackerFailed, TrackerQueue


class Fake:
    """Keeps what it takes; what it does else, the test says."""

    def __init__(self, act: Callable[[Told], None] = lambda told: None):
        self.taken: list[Told] = []
        self.closed = self.abandoned = False
        self._act = act

    def take(self, told: Told) -> None:
        self._act(told)
        self.taken.append(told)

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.abandoned = True


EVENTS = [started(3), *(step_done(step) for step in range(1, 4)), finished(3)]


def through(
    start: Callable[[], Tracker],
    *,
    room: int = 100,
    end_seconds: float = 5.0,
    after: Callable[[], None] = lambda: None,
) -> list[str]:
    """The notes after a run's events. `after` is called when all of them are told."""
    notes: list[str] = []

    def hear(event: Event) -> None:
        assert isinstance(event, Note)
        notes.append(event.message)

    with TrackerQueue("fake", start, hear, room=room, end_seconds=end_seconds) as told:
        for event in EVENTS:
            told(event)
        after()
    return notes


def test_a_tracker_gets_every_event_in_order_and_is_closed() -> None:
    fake = Fake()
    with TrackerQueue("fake", lambda: fake, lambda event: None) as told:
        told(StageBegun(stage="loading"))
        for event in EVENTS:
            told(event)
        told.conclude(TrackedOutcome(documents={"run.lock": {}}))
    assert fake.taken == [*EVENTS, TrackedOutcome(documents={"run.lock": {}})]
    assert fake.closed
    assert not fake.abandoned


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_tracker_that_fails_is_given_up(place: int) -> None:
    fake = Fake()

    def act(told: Told) -> None:
        if len(fake.taken) == place:
            raise ValueError("no room")

    fake._act = act
    notes = through(lambda: fake)
    assert notes == ["the tracker fake has failed: ValueError: no room; the run is not affected"]
    assert fake.taken == EVENTS[:place]


def test_a_tracker_that_cannot_begin_is_given_up() -> None:
    def start() -> Tracker:
        raise ConnectionError("nobody answers")

    notes = through(start)
    assert notes == ["the tracker fake has failed: ConnectionError: nobody answers; the run is not affected"]


def test_the_words_of_a_tracker_that_has_failed_are_its_own() -> None:
    def start() -> Tracker:
        raise TrackerFailed("no key")

    notes = through(start)
    assert notes == ["the tracker fake has failed: no key; the run is not affected"]


def test_a_tracker_that_hangs_is_abandoned() -> None:
    free = threading.Event()
    fake = Fake(lambda told: free.wait(30) and None)
    notes = through(lambda: fake, end_seconds=0.3)
    free.set()
    assert fake.abandoned
    lost = "the tracker fake did not end within 0.3 s, so the events that were still waiting are lost"
    assert notes == [f"{lost}; the run is not affected"]


def test_a_tracker_that_hangs_is_abandoned_when_ctrl_c_ends_the_wait_for_it() -> None:
    """By a real signal: Python 3.11 takes a thread for ended whose `join` a signal has interrupted."""
    free, taken = threading.Event(), threading.Event()
    notes: list[Event] = []

    def hang(event: Told) -> None:
        taken.set()
        free.wait(60)

    fake = Fake(hang)
    fake.abandon = free.set  # type: ignore[method-assign]
    told = TrackerQueue("fake", lambda: fake, notes.append, end_seconds=60.0)
    told.__enter__()
    told(EVENTS[0])
    taken.wait(60)
    main = threading.get_ident()

    def interrupt() -> None:
        names: list[str] = []
        while names[-1:] != ["__exit__"]:
            frame: FrameType | None = sys._current_frames()[main]
            # The wait itself, below whatever of `threading` it is made of.
            while frame is not None and frame.f_code.co_filename == threading.__file__:
                frame = frame.f_back
                names.append("" if frame is None else frame.f_code.co_name)
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        told.__exit__(None, None, None)
    assert free.is_set()
    assert "the tracker fake had not ended when it was interrupted" in str(notes)


def test_a_tracker_that_is_slow_loses_events_and_holds_nobody_up() -> None:
    told = threading.Event()
    notes = through(lambda: Fake(lambda event: told.wait(30) and None), room=2, after=told.set)
    assert len(notes) == 1
    assert re.search(r"the tracker fake was too slow, so \d+ events? (was|were) dropped; the run", notes[0])
