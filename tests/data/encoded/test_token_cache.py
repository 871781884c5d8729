"""The cache of tokens: when it is found again, when it is not, and what happens to a damaged one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from veneer.data.encoded.stored_rows import stored_rows
from veneer.data.encoded.token_cache import cache_folder, cached_tokens
from veneer.data.files.sources import RowFile, RunFiles
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind, TokenCache
from veneer.errors import DataError, OutputError
from veneer.events import Level, Note, StageBegun
from veneer.io.checkpoint import open_checkpoint
from veneer.io.leftovers import HELD, PARTIAL, held
from veneer.io.tokenizer import from_directory


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


NAMES = {
    "another folder": (["train.jsonl", "extra_train.jsonl"], ["data/train.jsonl", "data/extra_train.jsonl"]),
    "one name in another": (["data/train.jsonl", "train.jsonl"], ["train.jsonl", "data/train.jsonl"]),
    "shifted": (["a.jsonl", "b.jsonl"], ["b.jsonl", "c.jsonl"]),
    "swapped": (["a.jsonl", "b.jsonl"], ["b.jsonl", "a.jsonl"]),
    "one in the next": (["a.jsonl", "aa.jsonl"], ["aa.jsonl", "aaa.jsonl"]),
    "twice": (["a.jsonl", "b.jsonl", "a.jsonl"], ["b.jsonl", "c.jsonl", "b.jsonl"]),
    "once, then twice": (["a.jsonl", "b.jsonl"], ["c.jsonl", "c.jsonl"]),
    "twice, then once": (["c.jsonl", "c.jsonl"], ["a.jsonl", "b.jsonl"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_files_of_other_names_stand_there_as_if_they_were_encoded_by_these(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = open_checkpoint(tiny_model).tokenizer()

    def encoded(names: Sequence[str], cache: str) -> tuple[object, ...]:
        for place, name in enumerate(names):
            Path(name).parent.mkdir(exist_ok=True)
            same = 0 if "once" in kind or name == names[0] else place
            bad = {"text": 3}
            write_rows(Path(name), [{"text": "a b c", "of no use": same}, bad, *rows(3, seed=same)])
        own = (f"data.cache_dir={cache}", "data.bad_rows=skip")
        data = run_config(tiny_model, Path(names[0]), tmp_path / "run", *own).data
        said: list[str] = []
        files = [Path(name) for name in names]
        store = cached_tokens(files, data, tokenizer, "training", lambda event: None)
        stored = stored_rows(
            data,
            RunFiles(tuple(RowFile(file, "data.file", 1.0) for file in files), ()),
            tokenizer,
            lambda event: said.append(event.message) if isinstance(event, Note) else None,
            RowKind.ANSWERS,
        )
        places = [store.where(number) for number in range(len(store))]
        notes = [note for note in said if "are read from" not in note]
        assert any("of no use" in note for note in notes)
        assert [problem.where for problem in store.problems()] == [f"{name}:2" for name in names]
        return places, store.notes(), store.problems(), stored.skipped, stored.in_files, notes

    then, now = NAMES[kind]
    encoded(then, "cache")
    made = len(list(Path("cache").iterdir()))
    assert encoded(now, "cache") == encoded(now, "fresh")
    assert (len(list(Path("cache").iterdir())) == made) == ("once" not in kind)


def test_a_file_named_twice_is_read_from_the_disk_as_from_memory(loading: Loading) -> None:
    write_rows(loading.data, [{**row, "of no use": 1} for row in rows(12)])
    twice = f"data.sources=[{{file: {loading.data}}}, {{file: {loading.data}}}]"
    memory = loading.load(twice, "data.file=null", "data.cache=never")
    for _ in range(2):
        disk = loading.load(twice, "data.file=null")
        assert disk.digest() == memory.digest()
        assert [one.where for one in disk.train] == [one.where for one in memory.train]
    assert not loading.encoded


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


def test_a_template_that_writes_another_date_makes_another_cache(loading: Loading) -> None:
    loading.model = write_model(loading.folder / "model")
    config = loading.model / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{% for", "{{ strftime_now('%d %b %Y') }} {% for", 1))
    tokenizer = from_directory(loading.model)
    data = run_config(loading.model, loading.data, loading.folder, "data.cache=always").data
    data = data.model_copy(update={"cache_dir": str(loading.folder / "dated")})
    for day in (date(2024, 7, 26), date(2024, 7, 27)):
        dated = replace(tokenizer, template_date=day)
        kept = load_rows(data, dated)
        held = load_rows(data.model_copy(update={"cache": TokenCache.NEVER}), dated)
        assert kept.digest() == held.digest()
    assert len(list((loading.folder / "dated").iterdir())) == 2


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


def test_what_killed_runs_left_in_the_cache_is_gone_after_the_next_that_encodes(loading: Loading) -> None:
    left, used = (loading.cache / f".partial-{number}-{'0' * 32}" for number in (1, 2))
    for partial in (left, used):
        partial.mkdir(parents=True)
        partial.with_name(partial.name + HELD).touch()
    used.with_name(used.name + HELD).unlink()
    with held(used):
        loading.load()
        assert used.is_dir()
    assert not left.exists()
    loading.load("data.max_length=60")
    assert [folder for folder in loading.cache.iterdir() if folder.name.startswith(PARTIAL)] == []


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
    with pytest.raises(OutputError, match=r"cannot be written: .* Name another folder by data\.cache_dir, or keep no"):
        loading.load()


def test_without_a_folder_the_users_cache_is_taken(loading: Loading) -> None:
    config = run_config(loading.model, loading.data, loading.folder / "run")
    assert cache_folder(config.data) == Path(os.path.expanduser("~/.cache/veneer/tokens"))
