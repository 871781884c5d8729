"""What the points of a sweep came to is read, compared and drawn."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import write_run
from veneer.config import parse
from veneer.events import RunEnd
from veneer.run_folder import RunFolder
from veneer.sweeps.chart import chart
from veneer.sweeps.grid import Point, points
from veneer.sweeps.outcome import (
    OutcomeTable,
    PointState,
    SweepOutcome,
    best_of,
    compared_by,
    dumped,
    lost_of,
    read_outcome,
)
from veneer.text.strict_json import to_text, with_reasons
from veneer.training.evaluations.best import BestBy


def told(point: Point, evaluations: Sequence[dict[str, Any]]) -> None:
    """Write the events of a finished run with these evaluations, one a step."""
    events: list[dict[str, Any]] = [{"event": "RunStarted", "steps": 4, "resumed_at": 0}]
    for step, values in enumerate(evaluations, start=1):
        events.append({"event": "StepDone", "step": step, "loss": 3.0, "seconds": 1.0, "memory_mb": 1.0})
        events.append({"event": "Evaluated", "step": step, "best": False, **values})
    events.append({"event": "RunFinished", "reason": "complete", "seconds": 1.0, "memory_mb": 1.0})
    folder = RunFolder(Path(point.config.output))
    folder.path.mkdir(parents=True)
    folder.events_file.write_text("".join(to_text(with_reasons(event)) + "\n" for event in events), encoding="utf-8")
    folder.lock_file.write_text("{}", encoding="utf-8")


def test_points_are_compared_by_the_metric_against_a_plain_search(values: dict[str, Any], tmp_path: Path) -> None:
    source = random.Random(5)
    for number, (metric, higher) in enumerate([("rewards/margins", True), ("rewards/rejected", False)] * 10):
        settings = {**values, "objective": "orpo", "train": {**values["train"], "best_metric": metric}}
        found = points(settings, {"train.seed": [0, 1, 2]}, tmp_path / str(number))
        every = []
        for point in found:
            losses = [source.random() for _ in range(4)]
            measured = [source.choice([source.randint(0, 9) / 8, math.nan]) for _ in losses]
            told(point, [{"loss": a, "metrics": {metric: b}} for a, b in zip(losses, measured, strict=True)])
            every.append((losses, [value for value in measured if math.isfinite(value)], measured))
        by = compared_by(found)
        assert by == BestBy(metric, metric, higher)
        outcomes = [read_outcome(point, by) for point in found]
        pick = max if higher else min
        for one, (losses, finite, measured) in zip(outcomes, every, strict=True):
            expected = pick(finite) if finite else None
            assert (one.state, one.final_loss) == ("complete", losses[-1])
            assert (one.best_by, one.best_value, one.judged) == (metric, expected, expected)
            assert one.best_step == (measured.index(expected) + 1 if expected is not None else None)
            assert one.best_loss == (losses[measured.index(expected)] if expected is not None else None)
        best, judged = best_of(outcomes), [one.best_value for one in outcomes if one.best_value is not None]
        assert best is not None
        assert best.best_value == pick(judged)
        shown = json.loads(dumped(outcomes))
        assert [(one["best_by"], one["best_value"], one["higher"]) for one in shown] == [
            (metric, one.best_value, higher) for one in outcomes
        ]
        drawn = chart(outcomes, "nats")
        assert f"best {metric}" in drawn
        assert "nats" not in drawn
        assert drawn.count("<circle") == len(judged)


def test_runs_of_before_there_were_metrics_are_compared_by_their_loss(values: dict[str, Any], tmp_path: Path) -> None:
    found = points(values, {"train.seed": [0, 1]}, tmp_path)
    for point, losses in zip(found, [(2.0, 1.5, 1.75), (2.0, 1.75, 1.625)], strict=True):
        told(point, [{"loss": loss} for loss in losses])
    outcomes = [read_outcome(point, compared_by(found)) for point in found]
    assert [(one.best_loss, one.best_step, one.best_by, one.best_value) for one in outcomes] == [
        (1.5, 2, "loss", None), (1.625, 3, "loss", None),
    ]  # fmt: skip
    assert best_of(outcomes) is outcomes[0]
    assert "best evaluation loss, nats" in chart(outcomes, "nats")


def test_a_point_of_which_no_evaluation_is_a_number_is_never_the_best(values: dict[str, Any], tmp_path: Path) -> None:
    found = points(values, {"train.seed": [0, 1]}, tmp_path)
    for point, losses in zip(found, [(math.nan, math.inf), (math.nan, 1.75)], strict=True):
        told(point, [{"loss": loss} for loss in losses])
    outcomes = [read_outcome(point, compared_by(found)) for point in found]
    assert [(one.best_step, one.best_loss, one.judged) for one in outcomes] == [(None, None, None), (2, 1.75, 1.75)]
    assert best_of(outcomes) is outcomes[1]
    assert chart(outcomes, "nats").count("<circle") == 1


def test_points_of_different_metrics_are_compared_by_the_loss(values: dict[str, Any], tmp_path: Path) -> None:
    found = points(values, {"train.best_metric": ["exact", "number"]}, tmp_path)
    assert compared_by(found) == BestBy()


def test_a_folder_is_read_again_only_where_its_log_or_lock_has_changed(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(point: Point, by: BestBy) -> SweepOutcome:
        read.append(point.name)
        return read_outcome(point, by)

    monkeypatch.setattr("veneer.sweeps.outcome.read_outcome", counted)
    found = points(values, {"train.seed": [0, 1, 2]}, tmp_path)
    table = OutcomeTable(BestBy())
    told(found[0], [{"loss": 2.0}])
    assert [one.state for one in table.of(found)] == ["complete", "waiting", "waiting"]
    told(found[1], [{"loss": 1.0}])
    RunFolder(Path(found[0].config.output)).lock_file.unlink()
    read.clear()
    assert [one.state for one in table.of(found)] == ["interrupted", "complete", "waiting"]
    assert read == [found[0].name, found[1].name]
    assert table.of(found) == [read_outcome(point, BestBy()) for point in found]
    assert len(read) == 2


def test_what_a_log_has_lost_is_told(values: dict[str, Any], tmp_path: Path) -> None:
    for number, (kept, lost) in enumerate(
        [
            (lambda line: True, None),
            (lambda line: False, "lacks 3 of 3 steps that were made"),
            (lambda line: '"step": 2' not in line, "lacks 1 of 3 steps that were made"),
            (lambda line: "RunFinished" not in line, "lacks the end of the run"),
        ]
    ):
        (point,) = points(values, {"train.seed": [0]}, tmp_path / str(number))
        assert lost_of(point) is None
        told(point, [{"loss": 2.0}] * 3)
        folder = RunFolder(Path(point.config.output))
        folder.summary_file.write_text('{"step": 3}', encoding="utf-8")
        lines = folder.events_file.read_text(encoding="utf-8").splitlines(keepends=True)
        folder.events_file.write_text("".join(filter(kept, lines)), encoding="utf-8")
        assert lost_of(point) == (None if lost is None else f"{folder.events_file} {lost}")


def test_steps_of_a_run_that_has_not_ended_are_those_of_its_checkpoints(values: dict[str, Any], tmp_path: Path) -> None:
    (point,) = points(values, {"train.seed": [0]}, tmp_path)
    folder = RunFolder(Path(point.config.output))
    folder.checkpoint(2).mkdir(parents=True)
    assert lost_of(point) == f"{folder.events_file} lacks 2 of 2 steps that were made"
    skipped = {"event": "StepSkipped", "step": 1, "loss": 3.0, "grad_norm": 1.0}
    done = {"event": "StepDone", "step": 2, "loss": 3.0, "seconds": 1.0, "memory_mb": 1.0}
    folder.events_file.write_text("".join(to_text(one) + "\n" for one in (skipped, done)), encoding="utf-8")
    assert lost_of(point) is None


def test_a_point_is_in_a_state_in_which_a_run_ends_or_waits() -> None:
    assert {state.value for state in PointState} == {end.value for end in RunEnd} | {"waiting"}


@pytest.mark.parametrize("end", [end for end in RunEnd if end is not RunEnd.COMPLETE])
def test_the_state_of_a_point_whose_run_has_ended_is_its_end(end: RunEnd, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2, reason=end)
    point = Point("01", {}, parse({"model": "m", "output": str(folder), "data": {"file": "x"}}, where="test"))
    outcome = read_outcome(point, BestBy())
    assert outcome.state is PointState(end.value)
    assert f'"state": "{end.value}"' in dumped([outcome])


def test_a_point_whose_log_has_an_unknown_end_is_continued(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2, reason=RunEnd.COMPLETE)
    log = RunFolder(folder).events_file
    log.write_text(log.read_text(encoding="utf-8").replace('"complete"', '"from a later version"'), encoding="utf-8")
    point = Point("01", {}, parse({"model": "m", "output": str(folder), "data": {"file": "x"}}, where="test"))
    assert read_outcome(point, BestBy()).state is PointState.INTERRUPTED
