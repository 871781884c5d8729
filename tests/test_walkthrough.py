"""The quickstart within a time: what does not fit is left out, and said; where all fits, nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from veneer import walkthrough
from veneer.errors import ConfigError, Interrupted
from veneer.evaluation.report import Report
from veneer.events import StageBegun, StepDone, from_json
from veneer.run_folder import RunFolder
from veneer.training import time_limit
from veneer.training.run_inputs import RunInputs
from veneer.training.session import Learner
from veneer.training.time_limit import StepTimes, TimeTooShort
from veneer.walkthrough import FEWEST_ROWS, QuickstartResult, Shortening, quickstart, rows_that_fit


def test_as_many_rows_of_two_sets_are_scored_as_fit_and_never_too_few() -> None:
    assert rows_that_fit(100.0, 0.5, 150) == (100, 150.0)
    assert rows_that_fit(1000.0, 0.5, 150) == (150, 150.0)
    assert rows_that_fit(-5.0, 0.5, 150) == (FEWEST_ROWS, 150.0)
    assert rows_that_fit(-5.0, 0.5, 7) == (7, 7.0)


def test_what_was_left_out_is_said_with_what_the_whole_would_take() -> None:
    line = Shortening(steps=96, full_steps=190, rows=60, full_rows=150, full_seconds=1430).line(600)
    assert line == (
        "to keep within 10 min, 96 of 190 steps were trained and 60 of 150 messages of each set answered; the full run "
        "would take about 24 min (--time-limit 36m)"
    )


def test_a_set_of_one_row_is_refused_since_it_has_no_interval() -> None:
    with pytest.raises(ConfigError, match="rows: must be at least 2, got 1"):
        quickstart(rows=1)


def run(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[StepTimes], StepTimes],
    rows: int = 24,
) -> tuple[QuickstartResult, list[str]]:  # fmt: skip
    """The quickstart of a tiny model, whose steps are said to take other times than measured, by as few as may be."""
    measured = time_limit._measured

    def changed(inputs: RunInputs, learner: Learner, most: float, begun: float) -> StepTimes:
        return change(measured(inputs, learner, 0.0, begun))

    monkeypatch.setattr(time_limit, "_measured", changed)
    stages: list[str] = []
    result = quickstart(
        "lora", model=str(model), output=output, rows=rows,
        subscribers=[lambda event: stages.append(event.stage) if isinstance(event, StageBegun) else None],
    )  # fmt: skip
    return result, stages


def test_a_slow_machine_trains_fewer_steps_and_answers_fewer_messages(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(times: StepTimes) -> StepTimes:
        return replace(times, before=0.0, token=0.0, update=100.0, evaluation=0.0, checkpoint=0.0)

    def answers(*arguments: object) -> Callable[[list[object]], Report]:
        return lambda records: Report(rows=len(records), base=[], seconds=100.0 * len(records))

    monkeypatch.setattr(walkthrough, "_scorer", answers)
    result, _ = run(tiny_model, tmp_path / "run", monkeypatch, slow)
    # 0.6 · 600 s of training, of which 95 % are planned, are three steps; answers of 100 s leave time for no more rows.
    assert result.run.progress.step == 3
    assert [report.rows for report in result.reports.values()] == [FEWEST_ROWS, FEWEST_ROWS]
    assert result.shortening is not None
    assert (result.shortening.steps, result.shortening.full_steps, result.shortening.rows) == (3, 190, FEWEST_ROWS)
    assert result.shortening.full_seconds > 2 * 24 * 100
    assert result.to_json()["shortening"]["full_rows"] == 24


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are the whole quickstart, so that a test is short; the limit is far away."""
    configuration = walkthrough.configuration

    def short(*arguments: object) -> object:
        config = configuration(*arguments)  # type: ignore[arg-type]
        return config.changed("train", {"steps": 2})

    monkeypatch.setattr(walkthrough, "configuration", short)


def test_one_that_was_stopped_goes_on_by_the_same_call_and_one_that_is_complete_is_scored_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch)
    with pytest.raises(Interrupted, match="the same command resumes the run in quickstart-output"):
        quickstart("lora", model=tiny_model, rows=2, stop=lambda: True)
    stopped = [event.step for event in steps_of(Path("quickstart-output"))]
    first = quickstart("lora", model=tiny_model, rows=2)
    assert stopped == [1]
    assert [event.step for event in steps_of(Path("quickstart-output"))] == [1, 2]
    again = quickstart("lora", model=tiny_model, rows=2, output="quickstart-output")
    assert [event.step for event in steps_of(Path("quickstart-output"))] == [1, 2]
    assert [report.base for report in again.reports.values()] == [report.base for report in first.reports.values()]
    assert again.train_seconds >= again.run.progress.seconds > 0
    assert not Path("quickstart-output-2").exists()
    RunFolder(Path("quickstart-output")).events_file.unlink()
    without_log = quickstart("lora", model=tiny_model, rows=2, output="quickstart-output")
    assert without_log.run.complete_before
    assert without_log.shortening is None


def steps_of(run: Path) -> list[StepDone]:
    found = map(from_json, RunFolder(run).events())
    return [event for event in found if isinstance(event, StepDone)]


def test_where_the_whole_fits_nothing_is_left_out_or_tried(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    result, stages = run(tiny_model, tmp_path / "run", monkeypatch, lambda times: times, rows=5)
    assert result.shortening is None
    assert result.run.progress.step == 2
    assert [report.rows for report in result.reports.values()] == [5, 5]
    assert stages.count("answering with the base") == 2


def test_a_limit_that_is_too_short_is_told_of_as_it_was_given(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the time limit is 0\.01 s and not a single step fits") as caught:
        quickstart("lora", model=str(tiny_model), output=tmp_path / "run", time_limit=0.01)
    training = caught.value.__cause__
    assert isinstance(training, TimeTooShort)
    assert isinstance(caught.value, TimeTooShort)
    # Training has six tenths of the time.
    assert caught.value.enough == math.ceil(training.enough / 0.6)
    assert f"give {caught.value.enough} s or more" in str(caught.value)
