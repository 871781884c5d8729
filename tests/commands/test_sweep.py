from __future__ import annotations

import json
from pathlib import Path

from helpers.processes.invoking import invoke, refused


def test_the_points_of_a_grid_are_trained_and_told_as_json(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv: list[object] = ["sweep", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out"]
    argv += ["--method", "lora", "--grid", "train.learning_rate=0.001,0.01", "--device", "cpu"]
    argv += ["--set", "train.steps=2", "--set", "lora.rank=4", "--set", "compute.dtype=float32", "--json"]
    result = invoke(*argv)
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    rates = [point["settings"]["train.learning_rate"] for point in found["points"]]
    assert sorted(rates) == [0.001, 0.01]
    assert invoke(*argv).exit_code == 0, "the same command goes on with what is done"


def test_the_folder_may_stand_in_the_file_of_settings_as_all_others_do(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "run.yaml"
    rest = "method: lora\ntrain: {steps: 1}\nlora: {rank: 4}\ncompute: {dtype: float32, device: cpu}\n"
    file = f"model: {tiny_model}\ndata: {{file: {tiny_data}}}\n{rest}"
    argv: list[object] = ["sweep", "--config", settings, "--grid", "train.seed=1,2"]
    settings.write_text(file)
    assert "--output" in refused(*argv)
    settings.write_text(f"{file}output: {tmp_path / 'out'}\n")
    result = invoke(*argv)
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(list((tmp_path / "out").glob("*/run.lock"))) == 2


def test_a_grid_that_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    argv = ["sweep", "--model", "m", "--data", "d", "--output", tmp_path / "out", "--grid"]
    assert "lora.rnk" in refused(*argv, "lora.rnk=1,2")
    assert "lora.rank" in refused(*argv, "lora.rank=")
    assert "train.steps" in refused(*argv, "train.steps=1,2", "--set", "train.steps=2")
    assert "method" in refused(*argv, "method=lora,full", "--method", "lora")
    assert not (tmp_path / "out").exists()
