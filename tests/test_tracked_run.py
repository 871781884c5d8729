from __future__ import annotations

import json
from pathlib import Path

import pytest

import veneer
from helpers.processes.ctrl_c import pressed_after


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


def test_ctrl_c_of_a_script_or_notebook_keeps_the_last_step_and_the_run_is_resumed_to_the_same_bytes(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = {"model": str(tiny_model), "method": "lora", "data": {"file": str(tiny_data)}, "train": {"steps": 5},
                "compute": {"device": "cpu", "dtype": "float32"}}  # fmt: skip
    outputs = [str(tmp_path / name) for name in ("interrupted", "whole")]

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 5"), pressed_after(3) as press:
        veneer.train({**settings, "output": outputs[0]}, subscribers=[press])
    [record] = veneer.runs(tmp_path)
    assert (record.state, record.step) == (veneer.RunState.STOPPED, 3)
    runs = [veneer.train({**settings, "output": output}, resume=output == outputs[0]) for output in outputs]
    weights = [(run.output / "adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_unknown_settings_get_the_suggestion_of_the_command_line() -> None:
    values = {"model": "m", "output": "o", "data": {"file": "d"}, "train": {"learning_rat": 1e-4}}
    with pytest.raises(veneer.ConfigError, match=r"train\.learning_rat: unknown key.*train\.learning_rate"):
        veneer.train(values)
