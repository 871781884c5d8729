from __future__ import annotations

import json
from pathlib import Path

import veneer


def test_rows_in_memory_are_planned_as_those_of_a_file_and_not_written(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    settings = {"model": str(tiny_model), "output": str(tmp_path / "planned"), "method": "lora", "train": {"steps": 2}}
    in_memory = veneer.plan(settings, data=rows, device="cpu")
    of_file = veneer.plan(settings | {"data": {"file": str(tiny_data)}}, device="cpu")
    assert isinstance(in_memory, veneer.Plan)
    assert isinstance(of_file, veneer.Plan)
    assert in_memory.refusal is None
    assert in_memory.choice.batch == of_file.choice.batch
    assert not (tmp_path / "planned").exists()
