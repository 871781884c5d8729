from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.processes.consoles import recorded
from veneer.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Level,
    Note,
    RunDone,
    RunEnd,
    RunEvent,
    RunFailed,
    RunFinished,
    RunsJoined,
    RunStarted,
    StageBegun,
    StageEnded,
    StageProgress,
    StepDone,
)
from veneer.screens.events import EventScreen


def step(number_: int, *, loss: float = 2.0, seconds: float = 1.0, tokens: int = 500) -> StepDone:
    return StepDone(
        step=number_, epoch=0.1, loss=loss, grad_norm=1.0, learning_rate=0.1, tokens=tokens, supervised=5,
        seconds=seconds, memory_mb=1234.0,
    )  # fmt: skip


def started(steps: int, resumed_at: int = 0) -> RunStarted:
    return RunStarted(
        method="qlora", steps=steps, resumed_at=resumed_at, examples=1234, trainable=56789, learning_rate=0.001
    )


def shown(steps: int, *events: object, resumed_at: int = 0, terminal: bool = False) -> str:
    console = recorded(terminal=terminal)
    with EventScreen(console) as display:
        display(started(steps, resumed_at))
        for event in events:
            display(event)  # type: ignore[arg-type]
    return console.export_text()


def test_a_run_in_a_pipe_is_one_line_a_tenth() -> None:
    text = shown(40, *(step(n) for n in range(1, 41)))
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{n}/40" for n in range(4, 41, 4)]
    assert lines[0] == "step 4/40  loss 2.000  mean of 4 steps 2.000  500 tok/s  1,234 MB  left 36 s"
    assert lines[-1].endswith("left 0.0 s")
    assert "qlora: 56,789 trainable parameters, 1,234 rows, 40 steps, peak learning rate 0.001\n" in text


def test_a_stage_is_shown_in_a_terminal_as_it_is_called() -> None:
    console = recorded(terminal=True, width=100)
    with EventScreen(console) as display:
        display(StageBegun(stage="checking a[/b] [bold]c :smile:.jsonl", total=3, unit="row"))
    assert "checking a[/b] [bold]c :smile:.jsonl" in console.export_text()


def test_a_short_run_shows_every_step() -> None:
    text = shown(3, *(step(n) for n in range(1, 4)))
    assert [line.split()[1] for line in text.splitlines() if line.startswith("step")] == ["1/3", "2/3", "3/3"]


def test_time_left_after_a_resumption_counts_this_session_only() -> None:
    text = shown(100, *(step(n) for n in range(81, 91)), resumed_at=80)
    assert "resumed after step 80" in text
    assert "step 90/100  loss 2.000  mean of 10 steps 2.000  500 tok/s  1,234 MB  left 10 s" in text


def test_the_loss_shown_is_that_of_the_step_and_a_mean_says_what_it_is_of() -> None:
    losses = [4.0, 3.0, 0.5, 0.25]
    text = shown(20, *(step(n + 1, loss=losses[n % 4]) for n in range(20)))
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert "step 2/20  loss 3.000  mean of 2 steps 3.500" in lines[0]
    assert "step 4/20  loss 0.250  mean of 2 steps 0.375" in lines[1]
    assert "step 4/20" not in lines[2]
    assert "mean" not in shown(1, step(1, loss=0.088))
    assert "loss 0.088" in shown(1, step(1, loss=0.088))


def test_long_steps_get_a_line_each() -> None:
    text = shown(1000, *(step(n, seconds=40.0) for n in range(1, 4)))
    assert [line.split()[1] for line in text.splitlines() if line.startswith("step")] == [
        f"{n}/1000" for n in (1, 2, 3)
    ]


def test_a_step_that_took_no_time_is_shown() -> None:
    assert "step 1/1" in shown(1, step(1, seconds=0.0))


def test_what_is_worth_a_line_gets_one() -> None:
    text = shown(
        1,
        Note(message="3 rows [left] out: [/tmp/x] and [bold]"),
        Evaluated(step=1, loss=1.23456, best=True, seconds=1.0),
        Evaluated(step=2, loss=2.0, best=False, seconds=1.0, metrics={"logps/chosen": -3.0, "rewards/margins": 0.25}),
        CheckpointSaved(step=1, path="secret-path", bytes=5, seconds=0.1),
        RunFinished(step=2, reason=RunEnd.COMPLETE, seconds=75.0, memory_mb=2345.6),
    )
    assert "3 rows [left] out: [/tmp/x] and [bold]\n" in text
    assert "step 1: evaluation loss 1.2346, the best so far\n" in text
    assert "step 2: evaluation loss 2.0000, rewards/margins 0.25\n" in text
    assert "secret-path" not in text
    assert "trained 2 steps in 1 min 15 s, peak 2,346 MB" in text


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (0, "trained 9 steps in 5.0 s"),
        (6, "trained 3 steps after the 6 before in 5.0 s"),
        (9, "nothing was trained: the run already had all"),
    ],
)
def test_only_steps_that_were_made_now_are_called_trained(before: int, said: str) -> None:
    done = RunFinished(step=9, reason=RunEnd.COMPLETE, seconds=5.0, memory_mb=1.0)
    last = shown(9, done, resumed_at=before).splitlines()[-1]
    assert last.startswith(said)


@pytest.mark.parametrize("reason", [RunEnd.INTERRUPTED, RunEnd.DIVERGED])
def test_a_run_that_ended_early_is_not_called_trained(reason: RunEnd) -> None:
    assert "trained" not in shown(9, RunFinished(step=2, reason=reason, seconds=1.0, memory_mb=1.0)).splitlines()[-1:]
    assert "trained 2" not in shown(9, RunFinished(step=2, reason=reason, seconds=1.0, memory_mb=1.0))


def test_a_long_message_in_a_pipe_stays_one_line() -> None:
    console = recorded(width=40)
    with EventScreen(console) as display:
        display(Note(message="word " * 60))
    assert console.export_text().count("\n") == 1


def test_a_terminal_gets_a_bar() -> None:
    text = shown(2, step(1), step(2), terminal=True)
    assert "training" in text
    assert "step 1/2" not in text


def test_a_terminal_of_80_columns_has_room_for_the_bar_and_its_facts() -> None:
    console = recorded(terminal=True, width=80)
    with EventScreen(console) as display:
        display(started(12345, resumed_at=11999))
        display(step(12000, seconds=400.0, tokens=123456))
        display._bars.refresh()
        last = console.export_text().splitlines()[-1][-80:]
    assert last.startswith("train")
    assert last.endswith("12000/12345  loss 2.000  309 tok/s  1,234 MB  left 38 h 20 min")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def staged(*told: tuple[float, Event], terminal: bool = False) -> list[str]:
    """Lines of a log in which each event comes so many seconds after the one before."""
    console, clock = recorded(terminal=terminal), Clock()
    with EventScreen(console, clock) as display:
        for seconds, event in told:
            clock.now += seconds
            display(event)
    return console.export_text().splitlines()


def progress(done: int, total: int | None = 272, left: float | None = 5.1) -> StageProgress:
    return StageProgress(stage="loading m", done=done, total=total, unit="tensors", rate=30.0, seconds_left=left)


BEGUN = StageBegun(stage="loading m", total=272, unit="tensors")


def test_a_log_hears_of_a_stage_that_takes_long_and_not_of_a_short_one() -> None:
    assert staged((0, BEGUN), (1.9, progress(100)), (0.05, StageEnded(stage="loading m", seconds=1.95))) == []
    lines = staged(
        (0, BEGUN), (1.9, progress(100)), (0.2, progress(120)), (9.9, progress(130)), (0.2, progress(140)),
        (1, progress(150)), (5, StageEnded(stage="loading m", seconds=18.2)),
    )  # fmt: skip
    assert lines == [
        "loading m: 120 of 272 tensors, 30/s, 5.1 s left",
        "loading m: 140 of 272 tensors, 30/s, 5.1 s left",
        "loading m: done in 18 s",
    ]


def test_while_nothing_is_whole_a_log_hears_what_has_been_made_so_far() -> None:
    begun = StageBegun(stage="answering", total=150, unit="rows")
    none = StageProgress(
        stage="answering", done=0, total=150, unit="rows", rate=0.0, seconds_left=None, item="3,120 tokens"
    )
    some = replace(none, done=24, rate=2.8, seconds_left=20.0, item="9,400 tokens")
    lines = staged((0, begun), (5, none), (11, some), (5, StageEnded(stage="answering", seconds=21.0)))
    assert lines == [
        "answering: 0 of 150 rows, 3,120 tokens",
        "answering: 24 of 150 rows, 2.8/s, 20 s left",
        "answering: done in 21 s",
    ]


def test_a_stage_of_hours_has_ten_lines_in_each_tenfold_of_its_time() -> None:
    lines = staged((0, BEGUN), *((5, progress(n)) for n in range(1, 5000)))
    assert len(lines) < 70


def test_a_log_is_told_at_once_of_a_stage_whose_length_nobody_knows() -> None:
    begun = StageBegun(stage="comparing tensors")
    assert staged((0, begun), (1, StageEnded(stage="comparing tensors", seconds=1.0))) == ["comparing tensors"]
    lines = staged((0, begun), (5, StageEnded(stage="comparing tensors", seconds=5.0)))
    assert lines == ["comparing tensors", "comparing tensors: done in 5.0 s"]


def test_a_bar_goes_when_its_stage_ends_or_fails() -> None:
    console = recorded(terminal=True)
    display = EventScreen(console)
    with display:
        display(BEGUN)
        display(progress(5))
        assert len(display._bars.tasks) == 1
        display(StageEnded(stage="loading m", seconds=1.0))
        assert display._bars.tasks == []
        display(BEGUN)
    assert display._bars.tasks == []


def test_of_several_runs_each_line_says_which() -> None:
    events: list[Event] = [
        RunsJoined(runs=("a", "b")),
        *(RunEvent(run=name, event=started(2)) for name in "ab"),
        RunEvent(run="a", event=Note(message="four lines of a plan")),
        RunEvent(run="b", event=Note(message="many rows are cut", level=Level.WARNING)),
        *(RunEvent(run=name, event=step(1, loss=loss)) for name, loss in (("a", 3.0), ("b", 4.0))),
        RunEvent(run="b", event=Evaluated(step=1, loss=1.5, best=True, seconds=1.0)),
        RunEvent(run="a", event=RunFinished(step=1, reason=RunEnd.DIVERGED, seconds=1.0, memory_mb=1.0)),
        RunDone(run="b", before=False),
        RunDone(run="c", before=True),
        RunFailed(run="a", message="the loss is nan"),
    ]
    assert staged(*((0, event) for event in events)) == [
        "training 2 together: a, b",
        "b: warning: many rows are cut",
        "a: step 1/2  loss 3.000  500 tok/s  1,234 MB  left 1.0 s",
        "b: step 1/2  loss 4.000  500 tok/s  1,234 MB  left 1.0 s",
        "b: step 1: evaluation loss 1.5000, the best so far",
        "a: diverged after step 1",
        "b: done",
        "c: was already complete",
        "a: the loss is nan",
    ]


def test_a_path_is_not_broken_where_it_fits_into_a_line() -> None:
    path = "/a/folder/of/results/" + "x" * 40
    console = recorded(terminal=True, width=80)
    with EventScreen(console) as display:
        display(Note(message=f"everything that was measured stands in {path}"))
    assert path in console.export_text().splitlines()
