"""A run's log is a line an event, whatever a kill or a full disk does to it."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.run_folders.run_logs import read_events
from veneer.errors import CheckpointError, OutputError
from veneer.event_log import EventLog, by_step
from veneer.events import (
    Event,
    Note,
    RunEnd,
    RunFinished,
    Stage,
    StageBegun,
    StageEnded,
    StageProgress,
    StepDone,
)


def step(number: int) -> StepDone:
    return StepDone(
        step=number, epoch=0.5, loss=1.25, grad_norm=2.0, learning_rate=0.1, tokens=3, supervised=2, seconds=0.5,
        memory_mb=10.0,
    )  # fmt: skip


def test_an_event_is_one_line_of_json_and_one_call(tmp_path: Path) -> None:
    seen: list[Event] = []
    with EventLog(tmp_path / "e.jsonl", seen.append) as log:
        log.emit(step(1))
        log.emit(Note(message='a "quoted"\nline\u2028 – ü'))
    lines = (tmp_path / "e.jsonl").read_bytes().decode("ascii").split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    first, second = json.loads(lines[0]), json.loads(lines[1])
    assert first["event"] == "StepDone"
    assert first["time"] > 1.7e9
    assert (first["step"], first["loss"], first["tokens"]) == (1, 1.25, 3)
    assert second["message"] == 'a "quoted"\nline\u2028 – ü'
    assert seen == [step(1), Note(message='a "quoted"\nline\u2028 – ü')]
    assert read_events(tmp_path / "e.jsonl") == [first, second]


def test_every_line_is_on_disk_before_the_next_thing_happens(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    sizes: list[int] = []
    with EventLog(path, lambda event: sizes.append(len(path.read_bytes().splitlines()))) as log:
        log.emit(step(1))
        log.emit(step(2))
    assert sizes == [1, 2]


def test_lines_that_are_held_are_written_in_their_order_or_never(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with EventLog(path) as log:
        log.emit(step(1))
    before = path.read_bytes()
    seen: list[Event] = []
    with EventLog(path, seen.append, held=True) as log:
        log.emit(step(2))
        assert path.read_bytes() == before
    assert (seen, path.read_bytes()) == ([step(2)], before)
    path.write_bytes(before[:-5])  # torn by a kill
    with EventLog(path, held=True) as log:
        log.emit(step(3))
        assert path.read_bytes() == before[:-5]
        log.write_held()
        log.emit(step(4))
    assert [event["step"] for event in read_events(path)] == [3, 4]


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for number in (1, 2):
        with EventLog(tmp_path / "e.jsonl") as log:
            log.emit(step(number))
    assert [event["step"] for event in read_events(tmp_path / "e.jsonl")] == [1, 2]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_torn_by_a_kill_costs_no_line_but_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "e.jsonl"
    with EventLog(path) as log:
        log.emit(step(1))
        log.emit(step(2))
    path.write_bytes(path.read_bytes()[:-cut])
    with EventLog(path) as log:
        log.emit(step(3))
        log.emit(step(4))
    # Cut by its newline alone, a line is whole again when the next begins on a fresh one.
    assert [event["step"] for event in read_events(path)] == ([1, 2, 3, 4] if cut == 1 else [1, 3, 4])


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"event": "Note"}\n\x00\x00\x00\n12\n\xff\xfe\n[1]\n\n{"event": "CheckpointSaved"}')
    assert [event["event"] for event in read_events(path)] == ["Note", "CheckpointSaved"]


@pytest.mark.parametrize(
    "line",
    [
        *("{}", '{"event": 5}', '{"event": ["StepDone"]}', '{"event": "StepDone"}', '{"event": "RunFinished"}'),
        '{"event": "RunStarted", "steps": 3, "resumed_at": null}',
        '{"event": "StepDone", "step": "x", "loss": 1.0, "seconds": 1.0, "memory_mb": 1.0}',
        '{"event": "Evaluated", "step": 3, "loss": null, "not_finite": {"loss": "much"}}',
        *(
            f'{{"event": "StepDone", "step": {number}, "loss": 1.0, "seconds": 1.0, "memory_mb": 1.0}}'
            for number in ("1.5", "true", "NaN", "1e300", "Infinity", str(10**30))
        ),
        '{"event": "StepDone", "step": null, "loss": 1, "seconds": 1, "memory_mb": 1, "not_finite": {"step": "nan"}}',
        '{"event": "Evaluated", "step": 3, "loss": null, "not_finite": []}',
    ],
)
def test_an_object_that_no_run_has_written_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(f"{line}\r\n")
    with EventLog(path) as log:
        log.emit(step(1))
        log.emit(replace(step(2), loss=math.inf))
    assert by_step(read_events(path), "StepDone", "loss") == {1: 1.25, 2: math.inf}


def test_steps_that_another_program_has_made_floats_of_are_read(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with EventLog(path) as log:
        log.emit(step(1))
        log.emit(step(2))
    path.write_text("".join(json.dumps(event | {"step": event["step"] + 0.0}) + "\n" for event in read_events(path)))  # type: ignore[operator]
    assert by_step(read_events(path), "StepDone", "loss") == {1: 1.25, 2: 1.25}
    assert by_step([{"event": "StepDone", "step": 1.0, "loss": 2.0}], "StepDone", "loss") == {1: 2.0}
    assert [type(event["step"]) for event in read_events(path)] == [int, int]


def test_a_log_that_cannot_be_opened_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/e\.jsonl: cannot be written"), EventLog(tmp_path / "absent/e.jsonl"):
        pass


def test_a_pipe_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.jsonl")
    with pytest.raises(OutputError, match=r"e\.jsonl is not a file"), EventLog(tmp_path / "e.jsonl"):
        pass


def test_a_log_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}: cannot be read: Is a directory"):
        read_events(tmp_path)


def test_an_unfinished_value_is_not_forgotten(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as log:
        log.emit(RunFinished(step=5, reason=RunEnd.COMPLETE, seconds=1.0, memory_mb=2.0))
    (event,) = read_events(tmp_path / "e.jsonl")
    assert event["best_step"] is None
    assert event["reason"] == "complete"


def test_a_full_disk_is_an_output_error_and_closing_is_quiet(tmp_path: Path) -> None:
    # A limit on file size stands for the full disk: the write is short, or refused.
    code = f"""
import resource, signal
from pathlib import Path
from veneer.errors import OutputError
from veneer.event_log import EventLog
from veneer.events import Note
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with EventLog(Path({str(tmp_path / "e.jsonl")!r})) as log:
        for number in range(100):
            log.emit(Note(message="x" * 30))
except OutputError as error:
    print(number, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "e.jsonl" in done.stdout
    assert 5 < int(done.stdout.split()[0]) < 20
    assert done.stderr == ""
    whole = read_events(tmp_path / "e.jsonl")
    assert len(whole) == int(done.stdout.split()[0])


def test_stages_are_told_and_not_logged(tmp_path: Path) -> None:
    seen: list[Event] = []
    seconds = itertools.count()
    with EventLog(tmp_path / "e.jsonl", seen.append) as log:
        with Stage(log.emit, "reading", clock=lambda: float(next(seconds))) as stage:
            stage.advance()
        log.emit(Note(message="x"))
    assert [type(event) for event in seen] == [StageBegun, StageProgress, StageEnded, Note]
    assert [event["event"] for event in read_events(tmp_path / "e.jsonl")] == ["Note"]
