"""The cache of tokens: when it is found again, when it is not, and what happens to a damaged one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiny import rows, run_config, write_model, write_rows
from veneer.data.rows import Rows, load_rows
from veneer.data.token_cache import cache_folder
from veneer.errors import DataError, OutputError
from veneer.events import Level, Note, StageBegun
from veneer.io.checkpoint import open_checkpoint


class Loading:
    """Loads the rows of a file, and keeps what was said."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.data = write_rows(folder / "rows.jsonl", rows(12))
        self.cache = folder / "cache"
        self.encoded = False
        self.warnings: list[str] = []

    def load(self, *assignments: str, data: Path | None = None) -> Rows:
        self.encoded, self.warnings = False, []
        own = ("data.cache=always", f"data.cache_dir={self.cache}", *assignments)
        config = run_config(self.model, data or self.data, self.folder / "run", *own)
        return load_rows(config.data, open_checkpoint(self.model).tokenizer(), self._note)

    def _note(self, event: object) -> None:
        self.encoded |= isinstance(event, StageBegun) and event.stage.startswith("tokenising")
        if isinstance(event, Note) and event.level is Level.WARNING:
            self.warnings.append(event.message)


@pytest.fixture
def loading(tiny_model: Path, tmp_path: Path) -> Loading:
    return Loading(tiny_model, tmp_path)


def test_rows_are_encoded_once(loading: Loading) -> None:
    first = loading.load()
    assert loading.encoded
    assert loading.load().digest() == first.digest()
    assert not loading.encoded
    moved = loading.folder / "moved.jsonl"
    loading.data.rename(moved)
    again = loading.load(data=moved)
    assert not loading.encoded, "a file is known by what is in it"
    assert again.digest() == first.digest()
    assert again.train[0].where == f"{moved}:1"


def test_whatever_decides_about_tokens_makes_another_cache(loading: Loading) -> None:
    loading.load()
    for setting in ("data.max_length=60", "data.overlong=truncate", "data.bad_rows=skip", "data.checks=[]"):
        loading.load(setting)
        assert loading.encoded, setting
    for setting in ("data.held_out=0.2", "train.seed=3", "data.held_out=0.2"):
        loading.load(setting)
        assert not loading.encoded, setting
    write_rows(loading.data, [*rows(11), *rows(1, seed=4)])
    changed = loading.load()
    assert loading.encoded, "another content"
    loading.model = write_model(loading.folder / "model")
    config = loading.model / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|im_start|>assistant", "<|im_start|> assistant"))
    loading.load()
    assert loading.encoded, "another template"
    assert changed.count == 12


@pytest.mark.parametrize("name", ["tokens.bin", "rows.bin", "problems.jsonl", "meta.json"])
@pytest.mark.parametrize("harm", ["changed", "longer", "shorter", "absent", "of zeros"])
def test_a_damaged_cache_is_noticed_and_made_again(loading: Loading, name: str, harm: str) -> None:
    if name == "problems.jsonl" and harm in ("changed", "shorter", "of zeros"):
        pytest.skip("the file is empty")
    whole = loading.load().digest()
    (folder,) = loading.cache.iterdir()
    file = folder / name
    content = bytearray(file.read_bytes())
    if harm == "changed":
        content[len(content) // 2] ^= 1
    elif harm == "longer":
        content += b"1"
    elif harm == "shorter":
        del content[-1:]
        content = content.rstrip(b"}\n") if name == "meta.json" else content
    elif harm == "of zeros":
        content = bytearray(len(content))
    file.unlink()
    if harm != "absent":
        file.write_bytes(content)
    found = loading.load()
    assert found.digest() == whole
    if name == "meta.json" and harm == "changed":
        return  # a digit of a note, perhaps
    assert loading.encoded
    (warning,) = loading.warnings
    assert str(folder) in warning
    assert loading.load().digest() == whole
    assert not loading.encoded


def test_a_run_that_is_killed_while_it_encodes_leaves_no_cache(loading: Loading) -> None:
    class Killed(Exception):
        pass

    def kill(event: object) -> None:
        if isinstance(event, Note):
            raise Killed

    config = run_config(
        loading.model, loading.data, loading.folder / "run", "data.cache=always", f"data.cache_dir={loading.cache}"
    )
    bad = write_rows(loading.folder / "bad.jsonl", [*rows(3), {"text": 5}])
    with pytest.raises(DataError, match="1 of 4 rows cannot be used"):
        loading.load(data=bad)
    assert list(loading.cache.iterdir()) == []
    with pytest.raises(Killed):
        load_rows(config.data, open_checkpoint(loading.model).tokenizer(), kill)
    (folder,) = loading.cache.iterdir()
    assert not folder.name.startswith(".partial"), "what is there is whole"


def test_of_two_runs_that_encode_at_once_both_find_what_one_wrote(loading: Loading) -> None:
    other = Loading(loading.model, loading.folder)
    own = ("data.cache=always", f"data.cache_dir={loading.cache}")
    config = run_config(loading.model, loading.data, loading.folder / "run", *own)
    digests = []

    def meanwhile(event: object) -> None:
        if isinstance(event, StageBegun) and event.stage.startswith("tokenising") and not digests:
            digests.append("")
            digests.append(other.load().digest())

    digests.append(load_rows(config.data, open_checkpoint(loading.model).tokenizer(), meanwhile).digest())
    assert other.encoded
    assert digests[1] == digests[2]
    assert len(list(loading.cache.iterdir())) == 1


def test_a_folder_that_cannot_be_written_and_a_file_that_is_not_there_are_refused(loading: Loading) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        loading.load(data=loading.folder / "absent.jsonl")
    loading.cache.write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        loading.load()


def test_without_a_folder_the_users_cache_is_taken(loading: Loading) -> None:
    config = run_config(loading.model, loading.data, loading.folder / "run")
    assert cache_folder(config.data) == Path(os.path.expanduser("~/.cache/veneer/tokens"))
