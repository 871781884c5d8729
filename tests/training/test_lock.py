"""`run.lock` says what the bytes of a run follow from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny import run_config
from training_runs import LONG, SETTINGS
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.training.run import train


@pytest.mark.parametrize("log", ["", '{"event": "RunStarted"}\n'])
def test_the_schedules_of_a_longer_run_are_known_without_its_log(
    log: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG))
    RunFolder(output).events_file.write_text(log)
    train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG, "train.epochs=4"), resume=True)
    lock = json.loads(RunFolder(output).lock_file.read_text())
    assert lock["schedules"] == [{"from_step": 0, "steps": 6}, {"from_step": 6, "steps": 8}]
    assert "schedules" not in json.loads(RunFolder(output).summary_file.read_text())
    found = reproduce(output)
    assert found.same, found.lines()
