"""Whatever goes wrong while writing, the old state stands and nothing half-done is left."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from veneer.errors import DataError, OutputError
from veneer.io import files
from veneer.io.leftovers import HELD, claim_of, held
from veneer.io.proofs import prove_file


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------ folders


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "result"
    with files.atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("2")
        assert not target.exists()
        assert folder.parent == target.parent
    assert (target / "a").read_text() + (target / "sub" / "b").read_text() == "12"
    assert names(target.parent) == ["result"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), DataError("y"), SystemExit(3)])
def test_an_exception_inside_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with files.atomic_folder(tmp_path / "result") as folder:
            (folder / "a").write_text("1")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == []


def test_an_os_error_inside_becomes_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), files.atomic_folder(tmp_path / "result"):
        raise OSError(28, "No space left on device", "the-file")
    assert names(tmp_path) == []


def test_a_file_of_an_unfinished_folder_has_its_later_name_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, files.atomic_folder(tmp_path / "result") as folder:
        files.write_text(folder / "absent" / "b", "x")
    absent = tmp_path / "result" / "absent"
    assert str(caught.value).startswith(f"{absent / 'b'}: cannot be written: ")
    assert f": there is no folder {absent}. " in str(caught.value)


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "absent" / "page.html"
    for write in (prove_file, lambda path: files.write_text(path, "x")):
        with pytest.raises(OutputError) as caught:
            write(target)
        assert f"{target}: cannot be written" in str(caught.value)
        assert f"there is no folder {target.parent}" in str(caught.value)
    with pytest.raises(OutputError, match="directory"):
        prove_file(tmp_path)
    prove_file(tmp_path / "page.html")
    assert names(tmp_path) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").write_text("kept")
    with pytest.raises(OutputError, match="result"), files.atomic_folder(tmp_path / "result") as folder:
        (folder / "new").write_text("x")
    assert names(tmp_path) == ["result"]
    assert names(tmp_path / "result") == ["old"]


def test_what_one_process_makes_another_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out"
    refused = pytest.raises(
        OutputError, match=f"^{path}: another process is writing there; wait for it or give another"
    )
    with files.claimed(path), refused, files.claimed(path):
        raise AssertionError
    with files.claimed(path), files.atomic_folder(path) as partial:
        (partial / "a").touch()
    assert names(path.parent) == ["out"]
    with pytest.raises(OutputError, match="exists already"), files.claimed(path):
        raise AssertionError
    with pytest.raises(OutputError, match="not empty"), files.claimed(path, files.refuse_filled):
        raise AssertionError
    claim_of(path).with_name(f"{claim_of(path).name}{HELD}").touch()  # of a process that was killed
    path.rename(path.with_name("other"))
    with files.claimed(path), files.atomic_folder(path) as partial:
        (partial / "a").touch()
    assert names(path.parent) == ["other", "out"]


def test_a_link_to_nothing_in_the_place_of_a_folder_is_no_want_of_space(tmp_path: Path) -> None:
    (tmp_path / "result").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="result") as caught, files.atomic_folder(tmp_path / "result") as folder:
        (folder / "a.txt").write_text("a")
    assert "Give another output folder" in str(caught.value)
    assert "space" not in str(caught.value)


def test_a_link_to_nothing_above_a_result_is_named(tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(tmp_path / "gone")
    for path in (link, link / "x" / "y"):
        with pytest.raises(
            OutputError, match=f"cannot be written: {link} is a link to {tmp_path}/gone, where nothing is"
        ):
            files.make_output_folder(path)


def test_a_folder_is_made_at_the_end_of_a_link_and_never_over_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    for name, target in (("to-nothing", "new"), ("to-a-folder", "there")):
        (tmp_path / name).symlink_to(tmp_path / target)
    for path in (tmp_path / "to-nothing", tmp_path / "to-a-folder"):
        place = files.folder_place(path)
        with files.atomic_folder(place) as folder:
            (folder / "a.txt").write_text("a")
        assert [file.name for file in place.iterdir()] == ["a.txt"]
        (place / "a.txt").unlink()
    assert (tmp_path / "to-nothing").is_symlink()
    assert files.folder_place(tmp_path / "plain") == tmp_path / "plain"
    monkeypatch.chdir(tmp_path / "there")
    for refused in (Path("."), tmp_path / "there", tmp_path / "to-a-folder", Path("/")):
        with pytest.raises(OutputError, match="which a finished folder cannot replace; give a new folder within it"):
            files.folder_place(refused)


def test_where_the_working_folder_was_deleted_full_paths_work_and_others_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert files.folder_place(tmp_path / "result") == tmp_path / "result"
    with pytest.raises(OutputError, match=r"result: cannot be written: .*: the working folder was deleted; enter one"):
        files.folder_place(Path("result"))


def test_staged_files_replace_those_of_the_same_name_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    with files.staged_files(tmp_path) as folder:
        (folder / "a").write_text("new a")
        (folder / "c").write_text("new c")
        assert (tmp_path / "a").read_text() == "old a"
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {
        "a": "new a", "b": "old b", "c": "new c",
    }  # fmt: skip


def test_staged_files_are_dropped_when_the_block_fails(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old a")

    def fail() -> None:
        with files.staged_files(tmp_path) as folder:
            (folder / "a").write_text("new a")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old a"


@pytest.mark.skipif(sys.platform != "linux", reason="a descriptor's file is asked for in Linux's way")
def test_all_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "result"

    def note(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, target.exists()))

    monkeypatch.setattr(os, "fsync", note)
    with files.atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert synced == [("a", False), ("b", False), (folder.name, False), (tmp_path.name, True)]
    synced.clear()
    target = tmp_path / "c"
    with files.staged_files(tmp_path) as folder:
        (folder / "c").write_text("3")
    assert synced == [("c", False), (tmp_path.name, True)]
    synced.clear()
    target = tmp_path / "text"
    files.write_text(target, "4")
    assert [exists for _, exists in synced] == [False, True]
    assert synced[1][0] == tmp_path.name


# -------------------------------------------------------------------------------------------------------------- files


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "one\n")
    files.write_text(tmp_path / "a", "zwei – 二\n")
    assert (tmp_path / "a").read_bytes() == "zwei – 二\n".encode()
    assert names(tmp_path) == ["a"]


def test_text_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        files.write_text(tmp_path / "absent" / "a", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        files.write_text(tmp_path / "folder", "x")
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a", "folder"]


def test_two_that_write_one_file_at_once_never_tear_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, and processes of containers that share a folder and have one number."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file = tmp_path / "file"
    with files.atomic_file(file) as first, held(first):
        first.write_text("first")
        with files.atomic_file(file) as second, held(second):
            second.write_text("second")
        assert (file.read_text(), first.read_text()) == ("second", "first")
    assert file.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"format": "pt"})
    read = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(read[name], tensor.detach()) for name, tensor in tensors.items())
    with pytest.raises(OutputError, match=r"absent/t"):
        files.write_tensors(tmp_path / "absent" / "t", tensors, {})


def test_tensors_may_be_read_by_whoever_reads_other_new_files(tmp_path: Path) -> None:
    """A server with a user of its own reads adapters that somebody else has trained."""
    (tmp_path / "other").touch()
    before = os.umask(0o027)
    try:
        (tmp_path / "group").touch()
        files.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    finally:
        os.umask(before)
    files.write_tensors(tmp_path / "b.safetensors", {"a": torch.ones(2)}, {})
    mode = {name: (tmp_path / name).stat().st_mode for name in names(tmp_path)}
    assert mode["a.safetensors"] == mode["group"]
    assert mode["b.safetensors"] == mode["other"]


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".partial-123-step").mkdir()
    (tmp_path / ".partial-123-step" / "x").write_text("x")
    (tmp_path / ".partial-9-config.yaml").write_text("x")
    (tmp_path / "partial-mine").write_text("x")
    (tmp_path / ".other").write_text("x")
    files.remove_partial(tmp_path)
    assert names(tmp_path) == [".other", "partial-mine"]
    files.remove_partial(tmp_path / "absent")


def test_a_kill_while_a_folder_is_deleted_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("1")

    def killed(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            files.remove_folder(tmp_path / "step")
    assert not (tmp_path / "step").exists()
    files.remove_partial(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(OutputError, match="step"):
        files.remove_folder(tmp_path / "step")


def test_an_output_folder_is_made_and_tried(tmp_path: Path) -> None:
    files.make_output_folder(tmp_path / "a" / "b")
    files.make_output_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="file"):
            files.make_output_folder(taken)


def test_a_file_for_which_there_is_no_room_says_what_it_takes_and_what_there_is(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        with pytest.raises(
            OutputError,
            match=r"File too large.* \(400,000 bytes are needed, [\d,]+ bytes are free there, a file may have",
        ):
            files.write_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(100_000)}, {})
        with pytest.raises(
            OutputError, match=r"big\.txt: .*\([\d,]+ bytes are free there, a file may have 60,000 bytes"
        ):
            files.write_text(tmp_path / "big.txt", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "big.txt").exists()
    missing = files.room_for(tmp_path / "none" / "x", 12)
    assert missing.startswith(" (12 bytes are needed, ")


def test_a_text_is_read_from_regular_files_alone(tmp_path: Path) -> None:
    """A pipe would keep whoever reads it waiting."""
    (tmp_path / "text").write_bytes("größer\xff".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe")
    assert files.read_regular(tmp_path / "text", errors="replace") == "gr\ufffd\ufffder\ufffd"
    for name in ("pipe", "absent", "."):
        with pytest.raises(FileNotFoundError, match="No such file"):
            files.read_regular(tmp_path / name)
