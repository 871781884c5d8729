"""A process that fails, hangs or is slow ends as a tracker, and the run has its bytes, whatever happens there."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree
from helpers.run_folders.run_logs import started, step_done
from veneer.enums import TrackerName
from veneer.events import Event, Level, Note
from veneer.tracked_run import train_tracked
from veneer.trackers import choose
from veneer.trackers.process import ProcessTracker, RunId
from veneer.trackers.queue import TrackerFailed, TrackerQueue

FAILS = "import sys; sys.stdin.readline(); print('so much\\nno room for it', file=sys.stderr); sys.exit(1)"
DIES = "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)"
HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
SLOW = "import sys, time\nfor line in sys.stdin: time.sleep(60)"


def command(program: str) -> tuple[str, ...]:
    return sys.executable, "-S", "-c", program


@pytest.mark.parametrize(("program", "said"), [(FAILS, "no room for it"), (DIES, "ended with code -9")])
def test_a_process_that_ends_says_why(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, program: str, said: str
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path)
    tracker = ProcessTracker(TrackerName.WANDB, config, RunId(tmp_path), command(program))

    def tell() -> None:
        for step in range(1, 10_000):
            tracker.take(step_done(step))

    with pytest.raises(TrackerFailed, match=said):
        tell()


def test_the_id_is_a_runs_and_its_resumptions(tmp_path: Path) -> None:
    first = RunId(tmp_path).of(started(9))
    assert RunId(tmp_path).of(started(9, 3)) == first
    again = RunId(tmp_path)
    assert again.of(started(9)) != first
    assert again.of(started(9)) == again.of(started(9, 2))


@pytest.mark.parametrize(
    ("program", "end_seconds", "said"),
    [(FAILS, 60.0, "no room for it"), (HANGS, 0.5, "did not end within"), (SLOW, 0.5, "did not end within")],
    ids=["fails", "hangs", "slow"],
)
def test_a_run_has_its_bytes_whatever_its_tracker_does(
    tmp_path: Path,
    tiny_model: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    end_seconds: float,
    said: str,
) -> None:
    made: list[ProcessTracker] = []

    def start(name: TrackerName, config: object, run_id: RunId) -> ProcessTracker:
        made.append(ProcessTracker(name, told, run_id, command(program)))
        return made[-1]

    settings = ("train.steps=3", "train.save_every=3")
    plain = run_config(tiny_model, tiny_data, tmp_path / "plain", *settings)
    told = run_config(tiny_model, tiny_data, tmp_path / "told", *settings, "track=[trackio]")
    monkeypatch.setattr(choose, "ProcessTracker", start)
    monkeypatch.setattr(choose, "TrackerQueue", partial(TrackerQueue, end_seconds=end_seconds))
    events: list[Event] = []
    train_tracked(plain)
    begun = time.perf_counter()
    train_tracked(told, emit=events.append)
    assert time.perf_counter() - begun < 300  # none that hangs was waited for: it would take 600 s
    warned = [one.message for one in events if isinstance(one, Note) and one.level is Level.WARNING]
    assert [one for one in warned if "the tracker trackio" in one and said in one]
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "plain")[name] == tree(tmp_path / "told")[name]
    assert made[0]._child.wait(60) != 0  # it is gone with the run
