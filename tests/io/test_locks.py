"""A folder has one holder at a time, and a dead one holds nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from veneer.errors import OutputError
from veneer.io import locks
from veneer.io.locks import LOCK, exclusive


@pytest.mark.scenario(number=14)
def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys; from pathlib import Path; from veneer.io.locks import exclusive\n"
            f"with exclusive(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match="another run is writing there"), exclusive(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with exclusive(tmp_path):
        pass


def test_the_lock_holds_within_one_process_too_and_is_given_back(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        with pytest.raises(OutputError, match="another run"), exclusive(tmp_path):
            pass
        with pytest.raises(OutputError, match="another run"), exclusive(tmp_path):
            pass
    with pytest.raises(ValueError, match="x"), exclusive(tmp_path):
        raise ValueError("x")
    with exclusive(tmp_path):
        pass


def test_a_refused_second_leaves_the_mark_of_the_one_that_holds_the_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path, "first"):
        with pytest.raises(OutputError, match="another run"), exclusive(tmp_path, "second"):
            pass
        assert (tmp_path / LOCK).read_text() == "first"
    assert (tmp_path / LOCK).read_text() == ""


def test_a_refusal_before_the_mark_stands_leaves_that_of_a_killed_process(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ValueError("x")

    (tmp_path / LOCK).write_text("killed")
    with pytest.raises(ValueError, match="x"), exclusive(tmp_path, "second", refuse):
        pass
    with exclusive(tmp_path, "third") as left:
        assert left == "killed"


def test_a_lock_whose_file_was_deleted_before_it_was_taken_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = locks.lock_patiently

    def late(file: IO[Any]) -> None:
        (tmp_path / LOCK).unlink()
        take(file)

    monkeypatch.setattr(locks, "lock_patiently", late)
    with pytest.raises(OutputError, match="has taken its folder away; start this one again"), exclusive(tmp_path):
        pass


def test_a_lock_in_an_absent_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"), exclusive(tmp_path / "absent"):
        pass


@pytest.mark.parametrize("room", [0, 5])
def test_a_mark_for_which_there_is_no_room_is_an_output_error_and_leaves_none(tmp_path: Path, room: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(OutputError, match=r"\.lock: cannot be written"), exclusive(tmp_path, "a long mark"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with exclusive(tmp_path, "ä") as left:
        assert (tmp_path / LOCK).read_text(encoding="utf-8") == "ä"
    assert left == ""
