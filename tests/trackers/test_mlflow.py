"""What MLflow is told offline is read back from its store of files; nothing leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from helpers.run_folders.run_logs import finished, started, step_done
from helpers.run_folders.tracked_runs import EVENTS, LOCK, MEASURES, SAMPLES, nothing_leaves, table, tell
from helpers.support import needs
from veneer.enums import TrackerName
from veneer.trackers.board import TrackedRun

pytestmark = needs("mlflow", "pip install 'veneer[mlflow]'")


def only_run(folder: Path) -> Path:
    """The folder of the one run in a store."""
    (meta,) = [file for file in folder.glob("mlruns/*/*/meta.yaml") if file.parent.parent.name != "0"]
    return meta.parent


def values(run: Path, name: str) -> dict[int, float]:
    """A metric by its steps: every line is a time, a value and a step."""
    lines = (run / "metrics" / name).read_text().splitlines()
    return {int(step): float(value) for _, value, step in map(str.split, lines)}


def test_mlflow_has_settings_numbers_tables_and_documents(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with nothing_leaves(monkeypatch):
        tell(TrackerName.MLFLOW, folder, tiny_model, tiny_data)
    run = only_run(folder)
    meta = yaml.safe_load((run / "meta.yaml").read_text())
    assert meta["run_name"] == "run"
    assert meta["status"] == 3  # FINISHED
    assert yaml.safe_load((run.parent / "meta.yaml").read_text())["name"] == "parcels"
    losses = values(run, "train/loss")
    assert (losses[1], losses[3]) == (2.5, 1.25)
    assert losses[2] != losses[2]
    assert values(run, "evaluation/rewards/margins") == {2: 0.5}
    assert (run / "params" / "lora.rank").read_text() == "4"
    assert (run / "params" / "objective").read_text() == "sft"
    assert table(run / "artifacts" / "samples" / "step-000002.json") == SAMPLES
    assert table(run / "artifacts" / "evaluation" / "measures" / "step-000003.json") == MEASURES
    assert json.loads((run / "artifacts" / "run.lock").read_text()) == LOCK
    assert "chosen: a rate" in (run / "artifacts" / "log.txt").read_text()


def test_rewards_and_patterns_may_be_called_as_their_users_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veneer.trackers.mlflow import Mlflow, accepted_name

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pattern = r".*\.[qk]_proj"
    settings = {"model": "m", "lora": {"rank_pattern": {pattern: 2}}}
    run = TrackedRun(
        id="1234", name="name", folder=str(tmp_path), project="p", online=False, settings=settings, resumed_at=0
    )
    odd = ("50 %", "50 §", "a?\n", "..", "a//b", "/a", "a/", "", "x" * 300, "b", "b/mean", "b/mean/mean")
    named = {f"objective/rewards/{name}/mean": float(place) for place, name in enumerate(odd)}
    board = Mlflow(run)
    board.numbers({"train/loss": 1.0, **named}, 1)
    board.numbers({"train/loss": 0.5}, 2)
    board.close("complete")
    assert values(only_run(tmp_path), "train/loss") == {1: 1.0, 2: 0.5}
    assert accepted_name("objective/rewards/Länge 2/mean") == "objective/rewards/Länge 2/mean"
    for name, value in named.items():
        assert values(only_run(tmp_path), accepted_name(name)) == {1: value}
    parameters = only_run(tmp_path) / "params"
    assert (parameters / accepted_name(f"lora.rank_pattern.{pattern}")).read_text() == "2"
    assert len(list(parameters.iterdir())) == 2


@pytest.mark.slow
def test_a_run_that_told_of_no_end_was_killed_and_is_the_same_when_it_goes_on(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    folder = tmp_path / "run"
    tell(TrackerName.MLFLOW, folder, tiny_model, tiny_data, EVENTS[:4], end=False)
    run = only_run(folder)
    assert yaml.safe_load((run / "meta.yaml").read_text())["status"] == 5  # KILLED
    tell(TrackerName.MLFLOW, folder, tiny_model, tiny_data, [started(3, 2), step_done(3, 1.0), finished(3)], end=False)
    assert only_run(folder) == run
    assert values(run, "train/loss")[3] == 1.0
    assert yaml.safe_load((run / "meta.yaml").read_text())["status"] == 3  # FINISHED
