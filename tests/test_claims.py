"""Folders that hold what another command has made, and the base model's, are not written into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree, write_model
from veneer.comparison.request import CompareRequest
from veneer.comparison.rows import prepare_rows
from veneer.comparison.run import compare_alone
from veneer.errors import OutputError
from veneer.events import ignore
from veneer.sweeps.run import sweep
from veneer.training.run import train


def test_every_result_has_a_folder_of_its_own(tiny_data: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")

    def run(folder: Path) -> None:
        train(run_config(model, tiny_data, folder, "train.steps=1"))

    def points(folder: Path) -> None:
        values = run_config(model, tiny_data, folder, "train.steps=1").model_dump(mode="json", exclude={"output"})
        sweep(values, {"lora.rank": [2]}, folder)

    def asked(folder: Path) -> CompareRequest:
        return CompareRequest(model=str(model), data=str(tiny_data), output=str(folder), seeds=1)

    commands: dict[str, Callable[[Path], object]] = {
        "run": run,
        "sweep": points,
        "comparison": lambda folder: compare_alone(asked(folder), ignore),
    }
    run(tmp_path / "run")
    points(tmp_path / "sweep")
    (tmp_path / "comparison").mkdir()
    prepare_rows(asked(tmp_path / "comparison"), tmp_path / "comparison", ignore)
    for kind, command in commands.items():
        for other in commands.keys() - {kind}:
            with pytest.raises(OutputError, match=rf"{other} holds a {other} \(see"):
                command(tmp_path / other)
        before = tree(model)
        with pytest.raises(OutputError, match="is the folder of the base model"):
            command(model)
        assert tree(model) == before
    points(tmp_path / "sweep")  # it goes on
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(OutputError, match="as it is; put it back from a copy if it was damaged"):
        points(tmp_path / "sweep")
