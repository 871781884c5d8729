"""The log of a run, read while it grows, is torn, is resumed or begins anew."""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import evaluated, finished, read_events, started, step_done
from veneer.event_log import EventLog, by_step
from veneer.events import AnswersJudged, CheckpointSaved, Event, Level, Note, SamplesAnswered
from veneer.run_records.curves import curve_of
from veneer.run_records.log import MOST_JUDGED, RunLog


def written(path: Path, *events: Event) -> Path:
    with EventLog(path) as log:
        for event in events:
            log.emit(event)
    return path


def test_a_log_that_is_read_piece_by_piece_is_the_log_that_is_read_at_once(tmp_path: Path) -> None:
    source = random.Random(3)
    events: list[Event] = [started(60), *(step_done(step) for step in range(1, 31)), evaluated(30, 1.0)]
    events += [started(60, resumed_at=20), *(step_done(step) for step in range(21, 61)), evaluated(60, 0.9)]
    whole = written(tmp_path / "whole.jsonl", *events).read_bytes()
    path = tmp_path / "events.jsonl"
    log, at = RunLog(path), 0
    assert not log.refresh()
    while at < len(whole):
        size = source.randint(1, 400)
        with path.open("ab") as file:
            file.write(whole[at : at + size])
        at += size
        log.refresh()
    once = RunLog(tmp_path / "whole.jsonl")
    once.refresh()
    assert log.steps.tolist() == once.steps.tolist() == list(range(1, 61))
    assert log.columns["loss"].tolist() == list(by_step(read_events(path), "StepDone", "loss").values())
    assert [one.step for one in log.evaluations] == [60]


def test_what_was_read_stays_as_it_is_while_another_log_reads_on(tmp_path: Path) -> None:
    """A thread that looks into the arrays of a log, as curves do, would stop a log that grows in place."""
    path = written(tmp_path / "events.jsonl", started(9), *(step_done(step) for step in range(1, 4)))
    first = RunLog(path).refreshed()
    assert first.refreshed() is first
    views = [memoryview(column) for column in (first.steps, *first.columns.values())]
    answers = AnswersJudged(step=4, answers=1, tokens=1, failed=(), prompts=("p",), shown=("a",), rewards=(1.0,))
    noted = (evaluated(4, 1.0), answers, CheckpointSaved(step=4, path="x", bytes=1, seconds=0.1), Note(message="n"))
    written(path, step_done(4), *noted)
    with path.open("ab") as file:
        file.write(b'{"event": "StepDone"')
    later = first.refreshed()
    assert later.steps.tolist() == [1, 2, 3, 4]
    assert [len(one) for one in (later.evaluations, later.judged, later.checkpoints, later.lines)] == [1] * 4
    assert [len(view) for view in views] == [3] * len(views)
    assert [first.evaluations, first.judged, first.checkpoints, first.lines] == [[]] * 4
    assert later.refreshed() is later
    path.unlink()
    assert later.refreshed() is later
    written(path, started(3), step_done(1))
    assert later.refreshed().steps.tolist() == [1]


def test_steps_that_a_resumed_run_makes_again_count_once(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", started(9), *(step_done(step, 5.0) for step in range(1, 8)))
    written(path, started(9, resumed_at=4), step_done(5, 1.0))
    log = RunLog(path)
    assert log.refresh()
    assert log.steps.tolist() == [1, 2, 3, 4, 5]
    assert log.columns["loss"].tolist() == [5.0, 5.0, 5.0, 5.0, 1.0]
    assert log.end == {}
    assert not log.refresh()


def test_torn_lines_and_foreign_ones_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = '{"event": "StepDone", "step": 1}\n{"event": "Step\n[1]\n{"a": 1}\n\xff\n'
    path.write_bytes(line.encode("latin-1"))
    written(path, step_done(1), Note(message="told", level=Level.WARNING))
    log = RunLog(path)
    log.refresh()
    assert log.steps.tolist() == [1]
    assert [(one.level, one.message) for one in log.lines] == [(Level.WARNING, "told")]


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        *(("RunStarted", {"steps": steps}) for steps in (None, "many", -1)),
        ("RunStarted", {"time": "now"}),
        ("RunStarted", {"learning_rate": "high"}),
        ("RunStarted", {"planned_seconds": math.nan}),
        *(("StepDone", {"step": step}) for step in (1e999, 10**30, 1.5, True)),
        *(("StepDone", {name: math.nan}) for name in ("tokens", "seconds", "memory_mb")),
        ("StepDone", {"time": 1e30}),
        ("StepDone", {"metrics": [1]}),
        ("StepDone", {"metrics": {"a": None}}),
        ("StepDone", {"loss": None, "not_finite": {"loss": "wide"}}),
        ("Evaluated", {"step": 1e999}),
    ],
)
def test_an_event_of_another_program_is_passed_over(tmp_path: Path, event: str, changed: dict[str, Any]) -> None:
    """`events.jsonl` is a common name: one such file must not keep anybody from seeing the runs beside it."""
    path = written(tmp_path / "events.jsonl", started(9), step_done(1), evaluated(1, 0.5))
    events = {one["event"]: one for one in map(json.loads, path.read_text("utf-8").splitlines())}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**events[event], "step": 2, **changed}) + "\n")
    log = RunLog(path)
    log.refresh()
    assert log.steps.tolist() == [1]
    assert [len(column) for column in (*log.columns.values(), *log.metrics.values())] == [1] * len(log.columns)
    assert len(log.evaluations) == 1
    assert log.start["steps"] == 9


def test_a_line_that_is_not_whole_yet_waits(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", step_done(1))
    text = path.read_bytes()
    path.write_bytes(text[:-5])
    log = RunLog(path)
    assert not log.refresh()
    path.write_bytes(text)
    assert log.refresh()
    assert log.steps.tolist() == [1]


def test_a_log_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", started(9), *(step_done(step) for step in range(1, 8)), finished(7))
    log = RunLog(path)
    log.refresh()
    path.unlink()
    written(path, started(3), step_done(1))
    log.refresh()
    assert log.steps.tolist() == [1]
    assert log.end == {}
    assert log.start["steps"] == 3


def test_a_loss_that_is_not_finite_stays_so(tmp_path: Path) -> None:
    log = RunLog(written(tmp_path / "events.jsonl", step_done(1, math.nan), step_done(2, math.inf)))
    log.refresh()
    assert math.isnan(log.columns["loss"][0])
    assert log.columns["loss"][1] == math.inf
    assert json.loads(log.path.read_text("utf-8").splitlines()[0])["loss"] is None


def test_samples_and_the_metrics_of_an_objective_are_kept_and_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    def sampled(step: int, answer: str) -> SamplesAnswered:
        return SamplesAnswered(
            step=step, prompts=("a?",), answers=(answer,), cut_short=step == 2, seconds=0.1, share=0.01
        )

    with_metrics = [replace(step_done(step), metrics={"rewards/margins": step / 10}) for step in (2, 3)]
    path = written(tmp_path / "events.jsonl", started(9), step_done(1), with_metrics[0], sampled(2, "x"),
                   with_metrics[1], sampled(3, "y"))  # fmt: skip
    log = RunLog(path)
    log.refresh()
    assert math.isnan(log.metrics["rewards/margins"][0])
    assert log.metrics["rewards/margins"][1:].tolist() == [0.2, 0.3]
    assert [(one.step, one.answers, one.cut_short) for one in log.samples] == [(2, ["x"], True), (3, ["y"], False)]
    written(path, started(9, resumed_at=2), sampled(3, "z"))
    log.refresh()
    assert len(log.metrics["rewards/margins"]) == 2
    assert [(one.step, one.answers) for one in log.samples] == [(2, ["x"]), (3, ["z"])]
    assert curve_of(log, "rewards/margins").y == [None, 0.2]


def judged(step: int, answer: str = "x") -> AnswersJudged:
    return AnswersJudged(
        step=step, answers=16, tokens=100, failed=(), prompts=("a?", "b?"), shown=(answer, "y"), rewards=(1.0, -0.5)
    )


def test_a_log_of_many_evaluations_is_read_in_the_time_of_its_lines(tmp_path: Path) -> None:
    line = '{{"event": "Evaluated", "time": {0}, "step": {0}, "loss": 1.0, "best": false, "metrics": {{}}}}\n'
    file = tmp_path / "events.jsonl"
    file.write_text("".join(line.format(step) for step in [*range(1, 20_001), 19_000]))
    log, begun = RunLog(file), time.process_time()
    log.refresh()
    # To go through all earlier ones for each took 10 s, and takes a quarter of one now.
    assert time.process_time() - begun < 4
    assert [one.step for one in log.evaluations] == list(range(1, 19_001))


def test_sampled_answers_are_kept_with_their_rewards_from_the_first_step_to_the_last(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", started(9), judged(1), judged(2), judged(3))
    log = RunLog(path)
    log.refresh()
    assert [(one.step, one.shown[0]) for one in log.judged] == [(1, "x"), (2, "x"), (3, "x")]
    assert (log.judged[0].shown, log.judged[0].rewards) == (["x", "y"], [1.0, -0.5])
    written(path, started(9, resumed_at=1), judged(2, "z"))
    log.refresh()
    assert [(one.step, one.shown[0]) for one in log.judged] == [(1, "x"), (2, "z")]
    written(path, *(judged(step) for step in range(3, 1_000)))
    log.refresh()
    steps = [one.step for one in log.judged]
    assert (steps[0], steps[-1]) == (1, 999)
    assert len(steps) <= MOST_JUDGED
    assert {later - earlier for earlier, later in pairwise(steps[:-1])} == {32}, "the whole run stays in sight"
