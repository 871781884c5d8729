"""A run's state is what its folder says, whoever looks and however the run ended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from helpers.models.tiny import CommandLine
from helpers.run_folders.run_logs import write_run
from veneer.io.locks import exclusive
from veneer.run_folder import LOCK_FILE
from veneer.run_records.find import open_run
from veneer.run_records.state import RunState, state_of


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("complete", RunState.FINISHED),
        ("interrupted", RunState.STOPPED),
        ("diverged", RunState.FAILED),
        ("out of memory", RunState.FAILED),
        (None, RunState.FAILED),
    ],
)
def test_a_run_that_ended_by_itself_says_how(tmp_path: Path, reason: str | None, state: RunState) -> None:
    record, _, _ = open_run(write_run(tmp_path / "run", reason=reason))
    assert record.state is state


def test_a_run_that_could_not_write_its_result_has_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", reason="complete")
    (run / LOCK_FILE).unlink()
    record, _, _ = open_run(run)
    assert record.state is RunState.FAILED


def test_a_held_folder_is_running_and_a_mark_that_nobody_holds_is_a_kill(tmp_path: Path) -> None:
    with exclusive(tmp_path, "mark"):
        # The lock belongs to an open file: even this process sees it as another's.
        assert state_of(tmp_path, {}) is RunState.RUNNING
    assert state_of(tmp_path, {"reason": "interrupted"}) is RunState.STOPPED
    (tmp_path / ".lock").write_text("mark", encoding="utf-8")
    assert state_of(tmp_path, {"reason": "complete"}) is RunState.KILLED


def test_looking_at_a_folder_never_keeps_a_run_from_beginning(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("left by a kill", encoding="utf-8")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            state_of(tmp_path, {})

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(100):
            with exclusive(tmp_path, "mark"):
                pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def test_a_killed_run_is_killed_and_finished_when_it_has_gone_on(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    run = tmp_path / "run"
    given = ["train", "--model", str(tiny_model), "--data", str(tiny_data), "--output", str(run), "--method", "lora"]
    given += ["--device", "cpu", "--steps", "30", "--set", "train.save_every=5", "--resume"]
    command_line.run(*given, when=run / "events.jsonl", holds='"step": 7')
    killed, log, _ = open_run(run)
    assert killed.state is RunState.KILLED
    assert killed.steps == 30
    assert killed.step == len(log.steps) >= 7
    assert command_line.run(*given).code == 0
    done, log, _ = open_run(run)
    assert done.state is RunState.FINISHED
    assert log.steps.tolist() == list(range(1, 31))
