"""`run.lock` says what the bytes of a run follow from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config
from helpers.processes.other_user import as_another_user, as_root, open_folder
from helpers.training.training_runs import LONG, SETTINGS
from veneer.config import parse
from veneer.enums import Publish
from veneer.errors import CheckpointError
from veneer.native.library import KernelChoice
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.training.folder.lock import environment, holds_result
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


def test_kernels_that_were_chosen_and_do_not_load_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.native.library.compiled_choice", lambda: KernelChoice("avx2", "the best"))
    monkeypatch.setattr("veneer.native.library.kernels", lambda: None)
    config = parse({"model": "m", "output": "run", "data": {"file": "rows.jsonl"}}, where="the test")
    assert environment(torch.device("cpu"), config).kernels == "torch"


@as_root
def test_a_result_that_may_not_be_read_is_not_called_another(tiny_model: Path, tiny_data: Path) -> None:
    with open_folder() as place:
        folder = RunFolder(train(run_config(tiny_model, tiny_data, place / "run", "train.steps=1")).output)
        assert holds_result(folder, 1, Publish.LAST)
        next(iter(folder.weights.values())).chmod(0)
        with as_another_user(), pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
            holds_result(folder, 1, Publish.LAST)
