from __future__ import annotations

import pytest

from consoles import recorded
from veneer.events import CheckpointSaved, Evaluated, Note, RunFinished, RunStarted, StepDone
from veneer.screens.train import TrainingDisplay


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
    with TrainingDisplay(console) as display:
        display(started(steps, resumed_at))
        for event in events:
            display(event)  # type: ignore[arg-type]
    return console.export_text()


def test_a_run_in_a_pipe_is_one_line_a_tenth() -> None:
    text = shown(40, *(step(n) for n in range(1, 41)))
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{n}/40" for n in range(4, 41, 4)]
    assert lines[0] == "step 4/40  loss 2.000  500 tok/s  1,234 MB  left 36 s"
    assert lines[-1].endswith("left 0.0 s")
    assert "qlora: 56,789 trainable parameters, 1,234 rows, 40 steps, peak learning rate 0.001\n" in text


def test_a_short_run_shows_every_step() -> None:
    text = shown(3, *(step(n) for n in range(1, 4)))
    assert [line.split()[1] for line in text.splitlines() if line.startswith("step")] == ["1/3", "2/3", "3/3"]


def test_time_left_after_a_resumption_counts_this_session_only() -> None:
    text = shown(100, *(step(n) for n in range(81, 91)), resumed_at=80)
    assert "going on after step 80" in text
    assert "step 90/100  loss 2.000  500 tok/s  1,234 MB  left 10 s" in text


def test_the_loss_shown_is_smoothed_from_the_first_step() -> None:
    text = shown(2, step(1, loss=4.0), step(2, loss=3.0))
    assert "loss 4.000" in text
    assert "loss 3.900" in text


def test_a_step_that_took_no_time_is_shown() -> None:
    assert "step 1/1" in shown(1, step(1, seconds=0.0))


def test_what_is_worth_a_line_gets_one() -> None:
    text = shown(
        1,
        Note(message="3 rows [left] out: [/tmp/x] and [bold]"),
        Evaluated(step=1, loss=1.23456, best=True, seconds=1.0),
        Evaluated(step=2, loss=2.0, best=False, seconds=1.0),
        CheckpointSaved(step=1, path="secret-path", bytes=5, seconds=0.1),
        RunFinished(step=2, reason="complete", seconds=75.0, memory_mb=2345.6),
    )
    assert "3 rows [left] out: [/tmp/x] and [bold]\n" in text
    assert "step 1: evaluation loss 1.2346, the best so far\n" in text
    assert "step 2: evaluation loss 2.0000\n" in text
    assert "secret-path" not in text
    assert "trained 2 steps in 1 min 15 s, peak 2,346 MB" in text


@pytest.mark.parametrize("reason", ["interrupted", "diverged"])
def test_a_run_that_ended_early_is_not_called_trained(reason: str) -> None:
    assert "trained" not in shown(9, RunFinished(step=2, reason=reason, seconds=1.0, memory_mb=1.0)).splitlines()[-1:]
    assert "trained 2" not in shown(9, RunFinished(step=2, reason=reason, seconds=1.0, memory_mb=1.0))


def test_a_long_message_in_a_pipe_stays_one_line() -> None:
    console = recorded(width=40)
    with TrainingDisplay(console) as display:
        display(Note(message="word " * 60))
    assert console.export_text().count("\n") == 1


def test_a_terminal_gets_a_bar() -> None:
    text = shown(2, step(1), step(2), terminal=True)
    assert "training" in text
    assert "2/2" in text
    assert "step 1/2" not in text
