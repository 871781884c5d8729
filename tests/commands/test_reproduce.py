from __future__ import annotations

import json
from pathlib import Path

from helpers.processes.invoking import invoke
from veneer.run_folder import LOCK_FILE


def test_the_exit_code_says_whether_the_bytes_are_the_same(adapter: Path, tmp_path: Path) -> None:
    made = invoke("reproduce", adapter, "--output", tmp_path / "again")
    assert made.exit_code == 0, made.output
    assert "the same bytes: 28 tensors" in made.stdout
    assert f"run: {tmp_path / 'again'}" in made.stdout
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in adapter.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    lock = json.loads((copy / LOCK_FILE).read_text())
    lock["config"]["train"]["seed"] += 1
    (copy / LOCK_FILE).write_text(json.dumps(lock))
    other = invoke("reproduce", copy, "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["same"] is False
    (copy / LOCK_FILE).write_text("{}")
    assert invoke("reproduce", copy).exit_code == 2
