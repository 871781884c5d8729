from __future__ import annotations

import json
from pathlib import Path

import pytest

import veneer


def test_rows_in_memory_are_trained_and_reproduced_as_those_of_a_file(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    settings = {"model": str(tiny_model), "method": "lora", "train": {"steps": 2},
                "compute": {"device": "cpu", "dtype": "float32"}}  # fmt: skip
    by_file = veneer.train({**settings, "output": str(tmp_path / "file"), "data": {"file": str(tiny_data)}})
    mine = veneer.train({**settings, "output": str(tmp_path / "mine")}, data=iter(rows))
    weights = [run.output / "adapter_model.safetensors" for run in (by_file, mine)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (mine.output / "data.jsonl").is_file()
    moved = mine.output.rename(tmp_path / "moved")
    assert veneer.reproduce(moved).same
    with pytest.raises(veneer.OutputError, match="contains other rows than those given"):
        veneer.train({**settings, "output": str(moved)}, data=rows[:3])
    compute = veneer.ComputeSection(device="cpu", dtype="float32")
    reports = [veneer.evaluate(str(tiny_model), data, compute=compute, limit=2) for data in (tiny_data, rows)]
    assert reports[0].base == reports[1].base


def test_unknown_settings_get_the_suggestion_of_the_command_line() -> None:
    values = {"model": "m", "output": "o", "data": {"file": "d"}, "train": {"learning_rat": 1e-4}}
    with pytest.raises(veneer.ConfigError, match=r"train\.learning_rat: unknown key.*train\.learning_rate"):
        veneer.train(values)
