"""What must be as it was where a run is gone on with, and what may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from helpers.training.training_runs import LONG, SETTINGS
from veneer.errors import CheckpointError, Interrupted
from veneer.training.run import train
from veneer.training.session import RunResult


def test_a_run_cannot_be_made_shorter(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    with pytest.raises(CheckpointError, match=r"train\.steps: 6 then, 4 now"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG, "train.epochs=2"), resume=True)


def test_where_and_how_often_may_change(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=4")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    copied = tmp_path / "copy.jsonl"
    shutil.copy(tiny_data, copied)
    changes = ("train.steps=4", "train.keep=7", "train.save_every=3", "tracking.project=mine", "tracking.mode=online")
    assert train(run_config(tiny_model, copied, tmp_path / "elsewhere", *changes), resume=True).progress.step == 4


def test_a_run_that_chose_the_rows_of_its_steps_can_be_made_longer(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """20 rows make steps of 2 in one epoch; in 30 they would make steps of 4."""
    settings = (tiny_model, tiny_data, tmp_path / "run", "train.examples_per_step=auto")
    assert train(run_config(*settings, "train.epochs=1")).progress.step == 10
    with pytest.raises(Interrupted, match="after step 11 of 300"):
        train(run_config(*settings, "train.epochs=30"), resume=True, stop=lambda: True)
    given = run_config(*settings[:3], "train.epochs=30")
    with pytest.raises(CheckpointError, match="examples_per_step: 2 then, 8 now"):
        train(given, resume=True)
