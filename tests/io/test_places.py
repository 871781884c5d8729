"""A path that a user has named, and that the system cannot even look for, is one of the project's errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.adapters.combine import Combination
from veneer.combination import combine_folders
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import files_named
from veneer.errors import ConfigError, DataError, ModelError, OutputError, VeneerError
from veneer.events import ignore
from veneer.io.checkpoint import model_name, open_checkpoint, read_model_config
from veneer.io.places import look, missing, place_named
from veneer.run_records.find import open_run, runs
from veneer.training.folder.locked_folder import locked_folder

LONG = "x" * 300
NOBODY = "~a-user-that-is-not-here/x"


@pytest.mark.parametrize(
    ("name", "said"),
    [(NOBODY, "write the path in full"), (LONG, "File name too long. Check the path"), ("a\0b", "null")],
)
@pytest.mark.parametrize(
    ("named", "error"),
    [(open_checkpoint, ModelError), (read_model_config, ModelError), (files_named, DataError)],
)
def test_what_cannot_be_looked_for_is_refused(
    named: Callable[[str], object], error: type[VeneerError], name: str, said: str
) -> None:
    with pytest.raises(error, match=said):
        named(name)


def test_a_relative_name_of_nothing_is_told_with_the_folder_that_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing(tmp_path / "x") == f"{tmp_path / 'x'} does not exist"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=rf"^model does not exist in {tmp_path}: "):
        open_checkpoint("model")
    with pytest.raises(DataError, match=f"^rows.jsonl does not exist in {tmp_path};"):
        next(iter(iterate_rows(Path("rows.jsonl"))))


def test_what_is_there_and_what_is_not_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (tmp_path, tmp_path / "file", tmp_path / "none", tmp_path / "file" / "none"):
        assert place_named(str(name), ModelError) == name
    assert place_named("~", ModelError) == Path.home()
    assert place_named("./~nobody-at-all", ModelError) == Path("./~nobody-at-all")


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(OutputError, match=r"link cannot be looked for: Too many levels"):
        look(tmp_path / "link", OutputError)


def test_rows_and_runs_refuse_it_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long"):
        next(iterate_rows(LONG))
    for open_records in (runs, open_run):
        with pytest.raises(ConfigError, match="File name too long"):
            open_records(Path(LONG))
    with pytest.raises(OutputError, match="File name too long"):
        combine_folders({tmp_path: 1.0}, Combination(), Path(LONG))
    config = run_config(tmp_path, tmp_path, Path(LONG))
    with pytest.raises(OutputError, match="File name too long"), locked_folder(config, False, ignore):
        pass


def test_a_model_that_cannot_be_looked_for_has_a_name_all_the_same() -> None:
    assert model_name(LONG) == LONG
    assert model_name(NOBODY) == "x"
