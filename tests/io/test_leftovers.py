"""What a killed process left half-written is gone after the next run, and what is being written stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from veneer.errors import OutputError
from veneer.io import leftovers
from veneer.io.files import atomic_folder, remove_folder, scratch_folder, staged_files

WRITING = """
import sys
from pathlib import Path
from veneer.io.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "a").write_text("half")
    print(partial.name, flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def writer(target: Path, script: str = WRITING) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that is writing into a folder, and the name that this has meanwhile."""
    command = [sys.executable, "-c", script, str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def stage(folder: Path, name: str) -> None:
    with staged_files(folder) as staged:
        (staged / name).write_text("whole")


def write(target: Path) -> None:
    with atomic_folder(target) as partial:
        (partial / "a").write_text("whole")


def test_a_folder_of_a_killed_process_is_gone_after_the_next_and_one_that_is_written_stays(tmp_path: Path) -> None:
    with writer(tmp_path / "result") as (process, partial):
        held = [partial, partial + leftovers.HELD]
        assert names(tmp_path) == held
        write(tmp_path / "result")
        assert names(tmp_path) == [*held, "result"]
        remove_folder(tmp_path / "result")
        process.kill()
        process.communicate()
        assert names(tmp_path) == held, "a kill leaves it"
    write(tmp_path / "result")
    assert names(tmp_path) == ["result"]


def test_files_that_a_killed_process_had_staged_are_gone_after_the_next(tmp_path: Path) -> None:
    script = WRITING.replace("atomic_folder", "staged_files")
    with writer(tmp_path, script) as (_, partial):
        stage(tmp_path, "b")
        assert names(tmp_path) == [partial, partial + leftovers.HELD, "b"], "what is being written stays"
    stage(tmp_path, "c")
    assert names(tmp_path) == ["b", "c"]


def test_what_other_folders_became_of_is_left_unless_all_are_asked_for(tmp_path: Path) -> None:
    with writer(tmp_path / "other-result") as (_, partial):
        pass
    write(tmp_path / "result")
    left = [partial, partial + leftovers.HELD]
    assert names(tmp_path) == [*left, "result"]
    leftovers.remove_dead(tmp_path)
    assert names(tmp_path) == ["result"]


def test_what_has_no_lock_may_be_in_use_and_stays(tmp_path: Path) -> None:
    (tmp_path / ".partial-1-result").mkdir()
    write(tmp_path / "result")
    assert names(tmp_path) == [".partial-1-result", "result"]


def test_a_half_file_goes_too(tmp_path: Path) -> None:
    for name in (".partial-1-rows.jsonl", ".partial-1-rows.jsonl.held", ".partial-2-gone.held", "mine.held"):
        (tmp_path / name).write_text("x")
    leftovers.remove_dead(tmp_path, "rows.jsonl")
    assert names(tmp_path) == [".partial-2-gone.held", "mine.held"]
    leftovers.remove_dead(tmp_path)
    assert names(tmp_path) == ["mine.held"]
    leftovers.remove_dead(tmp_path / "absent")


def test_two_never_write_under_one_name(tmp_path: Path) -> None:
    with (
        leftovers.held(tmp_path / ".partial-1-x"),
        pytest.raises(OutputError, match="another process is writing there"),
        leftovers.held(tmp_path / ".partial-1-x"),
    ):
        pass
    assert names(tmp_path) == []


def test_where_there_are_no_locks_folders_are_written_and_nothing_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: IO[Any]) -> None:
        raise OSError(95, "Operation not supported")

    (tmp_path / ".partial-1-result").mkdir()
    (tmp_path / ".partial-1-result.held").touch()
    for name in ("lock_file", "lock_patiently"):
        monkeypatch.setattr(leftovers, name, refused)
    write(tmp_path / "result")
    assert names(tmp_path) == [".partial-1-result", ".partial-1-result.held", "result"]


def test_a_lock_that_is_cleared_away_as_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, cleared = leftovers.lock_patiently, []

    def late(file: IO[Any]) -> None:
        if not cleared:
            cleared.append(Path(file.name))
            cleared[0].unlink()
        lock(file)

    monkeypatch.setattr(leftovers, "lock_patiently", late)
    with leftovers.held(tmp_path / ".partial-1-x"):
        assert cleared == [tmp_path / ".partial-1-x.held"]
        assert cleared[0].exists()
        monkeypatch.setattr(leftovers, "lock_patiently", lock)
        leftovers.remove_dead(tmp_path)
        assert cleared[0].exists()


SCRATCH = """
import sys
from pathlib import Path
from veneer.io.files import scratch_folder
with scratch_folder(Path(sys.argv[1]), "base") as scratch:
    (scratch / "model").write_text("large")
    print(scratch.name, flush=True)
    sys.stdin.read()
"""


def test_a_scratch_folder_of_a_killed_process_is_gone_after_the_next_and_one_in_use_stays(tmp_path: Path) -> None:
    with writer(tmp_path, SCRATCH) as (_, left):
        held = [left, left + leftovers.HELD]
        with scratch_folder(tmp_path, "base") as own:
            assert names(tmp_path) == sorted([*held, own.name, own.name + leftovers.HELD])
        assert names(tmp_path) == held
    assert names(tmp_path) == held, "a kill leaves it"
    with scratch_folder(tmp_path, "rows"):
        pass
    assert names(tmp_path) == held, "it is for something else"
    with scratch_folder(tmp_path, "base"):
        pass
    assert names(tmp_path) == []


def test_a_scratch_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"), scratch_folder(tmp_path / "absent", "base"):
        pass
