"""Runs are found where they stand, whoever started them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import veneer
from helpers.processes.other_user import as_another_user, as_root, open_folder
from helpers.run_folders.run_logs import write_run
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
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        runs(tmp_path / "file")
    with pytest.raises(ConfigError, match="holds no run"):
        open_run(tmp_path)
    assert runs(tmp_path) == []


def test_the_settings_that_differ_are_found_at_any_depth() -> None:
    one = {"model": "a", "output": "x", "lora": {"rank": 4, "targets": []}, "only": 1}
    other = {"model": "a", "output": "y", "lora": {"rank": 8, "targets": []}, "new": {"key": None, "deep": 2}}
    assert differences(one, other) == {"lora.rank": (4, 8), "only": (1, None), "new.deep": (None, 2)}
    patterns = [{"lora": {"rank_pattern": pattern}} for pattern in ({"q_proj": 8}, {})]
    assert differences(*patterns) == {"lora.rank_pattern": ({"q_proj": 8}, {})}


@pytest.fixture
def shared() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@as_root
def test_what_another_user_may_not_read_is_passed_over_and_said_where_it_is_asked_for(shared: Path) -> None:
    for name in ("mine", "private", "log", "group/hidden"):
        write_run(shared / name)
    assert len(runs(shared)) == 4
    (shared / "private").chmod(0o700)
    (shared / "group").chmod(0o711)
    (shared / "group" / "hidden").chmod(0o600)
    (shared / "log" / "events.jsonl").chmod(0o600)
    (shared / "mine" / "config.yaml").chmod(0o600)
    with as_another_user():
        assert [one.name for one in runs(shared)] == ["mine"]
        for name in ("private", "log", "group/hidden"):
            with pytest.raises(ConfigError, match=r"events\.jsonl: cannot be read: Permission denied"):
                open_run(shared / name)
        for name in ("private", "private/below"):
            with pytest.raises(ConfigError, match=f"{name}: cannot be read: Permission denied"):
                runs(shared / name)
