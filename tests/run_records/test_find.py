"""Runs are found where they stand, whoever started them."""

from __future__ import annotations

from pathlib import Path

import pytest

import veneer
from run_logs import write_run
from veneer.errors import ConfigError
from veneer.run_records.find import differences, open_run, runs


def test_runs_are_found_below_a_folder_and_the_folder_itself_is_one(tmp_path: Path) -> None:
    for name in ("one", "sweep/points/two", "sweep/points/three"):
        write_run(tmp_path / name)
    write_run(tmp_path / "one" / "checkpoints" / "step-000010")
    write_run(tmp_path / ".hidden" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert sorted(one.name for one in veneer.runs(tmp_path)) == ["one", "sweep/points/three", "sweep/points/two"]
    assert [one.name for one in runs(tmp_path / "one")] == ["one"]
    assert runs(tmp_path / "one" / "checkpoints" / "..")[0].name == "one"


def test_what_is_no_folder_or_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        runs(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no run"):
        open_run(tmp_path)
    assert runs(tmp_path) == []


def test_the_settings_that_differ_are_found_at_any_depth() -> None:
    one = {"model": "a", "output": "x", "lora": {"rank": 4, "targets": []}, "only": 1}
    other = {"model": "a", "output": "y", "lora": {"rank": 8, "targets": []}, "new": {"key": None, "deep": 2}}
    assert differences(one, other) == {"lora.rank": (4, 8), "only": (1, None), "new.deep": (None, 2)}
