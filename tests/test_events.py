"""Events are told in order, come back from their JSON, and stages say how far they are."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from veneer.events import (
    Evaluated,
    Event,
    Level,
    Note,
    Result,
    RunEnd,
    RunEvent,
    RunFinished,
    RunsJoined,
    Stage,
    StageBegun,
    StageEnded,
    StageProgress,
    StepDone,
    broadcast,
    from_json,
    of_run,
    to_json,
)
from veneer.text.strict_json import to_text
from veneer.training import engine

STEP = StepDone(
    step=3, epoch=0.5, loss=1.25, grad_norm=2.0, learning_rate=0.1, tokens=3, supervised=2, seconds=0.5, memory_mb=10.0
)


@pytest.mark.parametrize(
    "event",
    [
        STEP, Note(message="x"), Note(message="y", level=Level.WARNING), StageBegun(stage="s", total=None),
        Evaluated(step=1, loss=0.5, best=True, seconds=0.1), StageEnded(stage="s", seconds=2.0),
        StageProgress(stage="s", done=1, total=2, unit="rows", rate=1.5, seconds_left=None, item="z"),
        RunFinished(step=1, reason=RunEnd.COMPLETE, seconds=1.0, memory_mb=2.0, best_step=1, best_loss=0.25),
        Result(verb="evaluate", values={"rows": 3, "base": [{"name": "loss"}]}),
    ],
    ids=lambda event: type(event).__name__,
)  # fmt: skip
def test_an_event_comes_back_from_its_json(event: Event) -> None:
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


def test_the_json_of_a_runs_event_names_the_run() -> None:
    values = to_json(RunEvent(run="lora-0", event=Note(message="x")))
    assert values == {"event": "Note", "message": "x", "level": "note", "run": "lora-0"}
    assert json.loads(json.dumps(to_json(RunsJoined(runs=("a", "b")))))["runs"] == ["a", "b"]


@pytest.mark.parametrize("values", [{}, {"event": "Moon"}, {"event": None}, {"event": "StepDone"}, {"event": "Note"}])
def test_what_is_no_event_of_ours_is_none(values: dict[str, object]) -> None:
    assert from_json(values) is None


def test_the_notes_of_earlier_versions_are_read() -> None:
    assert from_json({"event": "Note", "time": 1.0, "message": "old"}) == Note(message="old")


def test_every_subscriber_is_told_in_order_and_under_the_runs_name() -> None:
    seen: list[tuple[str, Event]] = []
    emit = broadcast([lambda event: seen.append(("a", event)), lambda event: seen.append(("b", event))])
    of_run("r", emit)(Note(message="x"))
    assert seen == [(name, RunEvent(run="r", event=Note(message="x"))) for name in "ab"]


class Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_tells_rate_and_time_left_at_most_ten_times_a_second() -> None:
    seen: list[Event] = []
    clock = Clock()
    with Stage(seen.append, "loading m", total=100, unit="tensors", clock=clock) as stage:
        for number in range(100):
            clock.now += 0.04
            stage.advance(item=f"t{number}")
    begun, *told, ended = seen
    assert begun == StageBegun(stage="loading m", total=100, unit="tensors")
    assert ended == StageEnded(stage="loading m", seconds=pytest.approx(4.0))
    assert len(told) == 34  # every third of 100, and the last
    first, last = told[0], told[-1]
    assert isinstance(first, StageProgress)
    assert isinstance(last, StageProgress)
    assert (first.done, first.total, first.unit, first.item) == (3, 100, "tensors", "t2")
    assert first.rate == pytest.approx(25.0)
    assert first.seconds_left == pytest.approx(97 / 25)
    assert (last.done, last.seconds_left) == (100, 0.0)


def test_a_stage_of_unknown_length_has_no_time_left_and_one_that_fails_does_not_end() -> None:
    seen: list[Event] = []
    clock = Clock()

    def fail() -> None:
        with Stage(seen.append, "asking", clock=clock) as stage:
            clock.now += 1
            stage.advance(5)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert [type(event) for event in seen] == [StageBegun, StageProgress]
    assert isinstance(seen[1], StageProgress)
    assert (seen[1].done, seen[1].total, seen[1].seconds_left) == (5, None, None)


@pytest.mark.parametrize("end", RunEnd)
def test_the_end_of_a_run_is_written_as_its_word_and_read_again(end: RunEnd) -> None:
    event = RunFinished(step=1, reason=end, seconds=1.0, memory_mb=2.0)
    line = to_text(to_json(event))
    assert f'"reason": "{end.value}"' in line
    assert from_json(json.loads(line)) == event


def test_a_run_can_end_in_every_way_that_has_a_name_and_in_no_other() -> None:
    assert {one.upper() for one in re.findall(r"RunEnd\.(\w+)", inspect.getsource(engine))} == set(RunEnd.__members__)


@pytest.mark.parametrize("values", [{"event": "RunFinished", "reason": "tired"}, {"event": "Note", "level": "loud"}])
def test_a_word_that_is_not_known_is_no_event(values: dict[str, str]) -> None:
    rest = {"step": 1, "seconds": 1.0, "memory_mb": 1.0, "message": "x"}
    assert from_json({**rest, **values}) is None
