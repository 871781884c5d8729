"""What cannot be written, or would replace another's file, is found before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from veneer.errors import OutputError
from veneer.io.proofs import prove_file, prove_folder, prove_own_file


def test_a_result_replaces_an_earlier_one_or_an_empty_file_and_nothing_else(tmp_path: Path) -> None:
    earlier, empty, rows = (tmp_path / name for name in ("page.html", "empty", "rows.jsonl"))
    earlier.write_text("<!doctype html> and more")
    empty.touch()
    rows.write_text("{}")
    for path in (earlier, empty, tmp_path / "new"):
        prove_own_file(path, "<!doctype html>", "a page")
    (tmp_path / "link.html").symlink_to(rows)
    os.mkfifo(tmp_path / "pipe")
    for path in (rows, tmp_path / "link.html", tmp_path / "pipe"):
        with pytest.raises(OutputError, match=f"{path} already exists and is not a page"):
            prove_own_file(path, "<!doctype html>", "a page")


def test_a_folder_is_proved_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove_folder(tmp_path / "new" / "deeper")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below", tmp_path / ("long" * 63)):
        with pytest.raises(OutputError, match=f"{path}: cannot be written"):
            prove_folder(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    monkeypatch.chdir(tmp_path)
    for path in (Path("file/below"), Path("file/below/deeper")):
        with pytest.raises(OutputError, match=f"^{path}: cannot be written: Not a directory"):
            prove_folder(path)


def test_the_remedy_of_a_file_is_another_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "page.html"):
        with pytest.raises(
            OutputError, match=f"{path}: cannot be written: .* Give the name of another file; earlier complete results"
        ):
            prove_file(path)
