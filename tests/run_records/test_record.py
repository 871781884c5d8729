"""The record of a run agrees with what the run itself reported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from helpers.run_folders.run_logs import write_run
from veneer.config import known_keys
from veneer.config.values import flat
from veneer.run_records.find import open_run, runs
from veneer.run_records.record import default_settings, differing_settings, json_or_none, read_settings
from veneer.run_records.state import RunState
from veneer.training.session import RunResult


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_the_record_is_what_the_run_says_of_itself(finished: dict[str, RunResult], method: str) -> None:
    result = finished[method]
    record, log, settings = open_run(result.output)
    summary = json.loads((result.output / "summary.json").read_text("utf-8"))
    assert record.state is RunState.FINISHED
    assert record.method == method == settings["method"]
    assert record.step == summary["step"] == record.steps == len(log.steps)
    assert record.tokens == summary["tokens"]
    assert record.seconds == pytest.approx(summary["seconds"], rel=1e-6)
    assert (record.best_step, record.best_loss) == (summary["best_step"], summary["best_loss"])
    assert record.begun is not None
    assert record.ended is not None
    assert record.begun <= record.ended


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("name", [".lock", "config.yaml", "run.lock"])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    (record,) = runs(tmp_path)
    assert record.step == 10
    assert json_or_none(folder / name) is None


def test_settings_of_damaged_or_missing_files_are_empty(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config="[not: a, mapping")
    assert read_settings(run) == {}
    assert read_settings(tmp_path) == {}
    assert open_run(run)[0].model is None
    (run / "run.lock").write_text("[1]", encoding="utf-8")
    assert json_or_none(run / "run.lock") is None
    assert json_or_none(run / "missing") is None


def test_settings_of_another_program_are_told_as_they_can_be(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config="model: {name: gpt}\nmethod: 3\nday: 2024-01-05\n1: [2024-01-06]\n")
    record, _, settings = open_run(run)
    assert (record.model, record.method) == (None, None)
    assert open_run(write_run(tmp_path / "odd", config='model: "a\\0b"\n'))[0].model is None
    assert settings == {"model": {"name": "gpt"}, "method": 3, "day": "2024-01-05", "1": ["2024-01-06"]}
    (run / "config.yaml").write_text("model: m\nday: 2024-13-45\n")
    assert read_settings(run) == {}


def test_the_defaults_have_every_key() -> None:
    assert set(default_settings()) | {"model", "output", "data.file"} >= set(known_keys()) - {"data.columns"}
    assert flat({"a": {"b": {"c": 1}, "d": {}}}) == {"a.b.c": 1, "a.d": {}}


def test_settings_that_differ_are_those_of_which_two_runs_have_another_value_or_one_has_none() -> None:
    one = {"output": "a", "method": "lora", "lora": {"rank": 1, "rank_pattern": {"q": 2}}, "train": {"shuffle": True}}
    two = {"output": "b", "method": "lora", "lora": {"rank": True, "rank_pattern": {"q": 2}}}
    shuffle = {"train.shuffle": True}
    assert differing_settings({"one": one, "two": two}) == {
        "one": {"lora.rank": 1, **shuffle},
        "two": {"lora.rank": True},
    }
    three = {"lora": {"rank_pattern": {"k": 2}}}
    found = differing_settings({"three": three, "one": one})
    assert found["three"] == {"lora.rank_pattern": {"k": 2}}
    assert found["one"] == {"lora.rank_pattern": {"q": 2}, "method": "lora", "lora.rank": 1, **shuffle}
    assert differing_settings({"one": one, "again": {**one, "output": "c"}}) == {"one": {}, "again": {}}
    assert differing_settings({"one": one}) == {"one": {}}
    assert differing_settings({}) == {}
