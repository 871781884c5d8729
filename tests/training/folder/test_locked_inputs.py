"""What a run was trained from, read from its `run.lock` and compared with the files that are there now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.errors import CheckpointError
from veneer.run_folder import LOCK_FILE
from veneer.training.folder.locked_inputs import changed_files, changed_inputs, read_lock
from veneer.training.run import train


def test_files_that_changed_went_or_came_are_named() -> None:
    then, now = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}
    assert changed_files("the base's", then, now) == [
        "the base's c: is not there any more",
        "the base's b: has changed",
        "the base's d: is new",
    ]
    assert changed_files("x", then, then) == []


def test_base_and_rows_are_compared_with_what_was_trained_from(tiny_model: Path, tmp_path: Path) -> None:
    base, data = tmp_path / "base", write_rows(tmp_path / "rows.jsonl", rows(8))
    shutil.copytree(tiny_model, base)
    config = run_config(base, data, tmp_path / "run", "train.steps=1")
    train(config)
    lock = read_lock(tmp_path / "run")
    assert changed_inputs(lock, config) == []
    write_rows(data, rows(9))
    (base / "generation_config.json").unlink()
    assert changed_inputs(lock, config) == [
        "base generation_config.json: is not there any more",
        "data data.file: has changed",
    ]
    data.unlink()
    assert "data data.file: is not there any more" in changed_inputs(lock, config)


def test_a_change_in_any_of_the_files_of_one_name_is_seen(tiny_model: Path, tmp_path: Path) -> None:
    for place in ("de", "en"):
        (tmp_path / place).mkdir()
        write_rows(tmp_path / place / "train.jsonl", rows(4, seed=len(place)))
    config = run_config(tiny_model, tmp_path / "*" / "train.jsonl", tmp_path / "run", "train.steps=1")
    train(config)
    lock = read_lock(tmp_path / "run")
    assert changed_inputs(lock, config) == []
    write_rows(tmp_path / "de" / "train.jsonl", rows(4, seed=7))
    assert changed_inputs(lock, config) == ["data data.file de/train.jsonl: has changed"]
    older = {"data.file train.jsonl": lock["data"]["files"]["data.file en/train.jsonl"]}
    lock["data"]["files"] = older
    assert changed_inputs(lock, config) == [], "a lock of before knows one of them"
    write_rows(tmp_path / "en" / "train.jsonl", rows(4, seed=7))
    assert changed_inputs(lock, config) == ["data data.file train.jsonl: has changed"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1]", "or of another version of veneer: format, versions"),
        ("{}", "or of another version of veneer: format, versions"),
        ("not json", "Expecting value"),
        ("[" * 100_000, "recursion"),
        (json.dumps({"format": 1, "versions": [], "hardware": 1, "config": {}}), ": versions, hardware, base,"),
        (json.dumps({"format": 1, "config": {"train": 1, "data": {}}}), r"config\.train, result, tokenizer$"),
    ],
)
def test_a_damaged_lock_is_refused_with_what_is_damaged(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=f"{LOCK_FILE} is damaged.*{named}"):
        read_lock(tmp_path)


def test_a_lock_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(CheckpointError, match=r"run\.lock: cannot be read: Is a directory$"):
        read_lock(tmp_path)


def test_a_folder_without_a_lock_is_no_finished_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(CheckpointError, match="is missing: give the folder of a finished run"):
            read_lock(place)
