"""A job for processes that share it, and what is known of these while they work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from veneer.data.encoded.worker_pool import PoolWorker, SharedJob
from veneer.errors import DataError
from veneer.events import Note, Subscriber

DIES, REFUSES = -1, -2
"""Numbers for which a process is killed, and for which the job ends with an error."""


@dataclass(frozen=True)
class Squares:
    """Squares numbers in groups; it tells of each that is above `told_from`."""

    told_from: int = 1_000_000
    does: str = "squares numbers"
    remedy: str = "square them by hand"

    def begin(self, tell: Subscriber) -> Callable[[Sequence[int]], list[tuple[int, int]]]:
        def squares(group: Sequence[int]) -> list[tuple[int, int]]:
            for number in group:
                if number == DIES:
                    os.kill(os.getpid(), signal.SIGKILL)
                if number == REFUSES:
                    raise DataError("no such number")
                if number >= self.told_from:
                    tell(Note(message=f"at {number}"))
            return [(number * number, os.getpid()) for number in group]

        return squares


def started(monkeypatch: pytest.MonkeyPatch) -> list[PoolWorker]:
    """The processes that are started from now on."""
    found: list[PoolWorker] = []
    start = PoolWorker.start

    def note(job: SharedJob[object, object]) -> PoolWorker:
        found.append(start(job))
        return found[-1]

    monkeypatch.setattr(PoolWorker, "start", note)
    return found


def ended(workers: Sequence[PoolWorker]) -> bool:
    return bool(workers) and all(one.process.poll() is not None for one in workers)
