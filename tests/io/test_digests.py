"""Digests are those of the files, and a file is read once for each content that it has."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Event

import pytest

from veneer.io import digests
from veneer.io.digests import BackgroundDigests, file_digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are read, with the digests of all sizes kept in a home of the test's own."""
    found: list[Path] = []
    plain = digests.sha256

    def reading(path: Path) -> str:
        found.append(path)
        return plain(path)

    monkeypatch.setattr(digests, "sha256", reading)
    monkeypatch.setattr(digests, "KEPT_FROM", 0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    digests._remembered.cache_clear()
    return found


def test_a_content_is_read_once_and_a_change_is_seen(reads: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_digest(file) == file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(file) == hashlib.sha256(b"two").hexdigest(), "the time of the last change was set back"
    assert len(reads) == 2


def test_the_next_process_reads_nothing(reads: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    file_digest(file)
    digests._remembered.cache_clear()
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"a": 1}', "\ud800"])
def test_what_is_kept_may_be_damaged(kept: str, reads: list[Path], tmp_path: Path) -> None:
    digests.kept_file().parent.mkdir(parents=True)
    digests.kept_file().write_bytes(kept.encode("utf-8", "surrogatepass"))
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert list(json.loads(digests.kept_file().read_text()).values()) == [file_digest(file)]


def test_a_home_that_cannot_be_written_costs_the_time_alone(reads: list[Path], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()


def test_where_no_home_is_known_nothing_is_kept(
    reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "kept_file", lambda: Path("~a-user-that-is-not-here/x").expanduser())
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert BackgroundDigests({"weights": file}).result() == {"weights": hashlib.sha256(b"one").hexdigest()}


def test_whatever_fails_in_the_background_is_raised_where_the_digests_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Path) -> str:
        raise KeyError("a mistake")

    monkeypatch.setattr(digests, "file_digest", broken)
    with pytest.raises(KeyError, match="a mistake"):
        BackgroundDigests({"a": tmp_path / "a"}).result()


def test_digests_in_the_background_are_those_of_the_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    found = BackgroundDigests({name: tmp_path / name for name in ("a", "b")}).result()
    assert found == {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    with pytest.raises(FileNotFoundError):
        BackgroundDigests({"c": tmp_path / "c"}).result()


@pytest.mark.scenario(number=6)
def test_who_is_in_a_hurry_does_not_wait_for_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_text("large")
    hashing = Event()

    def slowly(file: Path) -> str:
        hashing.wait(60)
        return "a digest"

    monkeypatch.setattr(digests, "sha256", slowly)
    monkeypatch.setattr(digests, "HURRY", 0.1)
    found = BackgroundDigests({"large": tmp_path / "large"})
    asked: list[int] = []

    def hurried() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert not found.in_time(hurried)
    assert len(asked) == 3
    hashing.set()
    assert found.in_time(lambda: False)
    assert found.result() == {"large": "a digest"}


def test_the_digest_is_the_published_one_of_abc(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digests.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_sampled_digest_sees_names_sizes_and_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SAMPLE_BYTES", 4)
    contents = [b"", b"a", b"abcd", b"abcde", b"abcdefgh", b"abcd____efgh", b"xbcd____efgh", b"abcd____efgx",
                b"abcd_____efgh"]  # fmt: skip
    found = set()
    for content in contents:
        (tmp_path / "a").write_bytes(content)
        found.add(digests.sampled_digest([tmp_path / "a"]))
        assert digests.sampled_digest([tmp_path / "a"]) in found
    (tmp_path / "a").rename(tmp_path / "b")
    found.add(digests.sampled_digest([tmp_path / "b"]))
    assert len(found) == len(contents) + 1
