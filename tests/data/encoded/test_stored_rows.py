"""Rows that are kept on the disk are those that are held in memory, and so is what is said of them."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.config import DataSection
from veneer.data.encoded import stored_rows, token_store
from veneer.data.encoded.stored_rows import is_cached
from veneer.data.rows import Rows, load_rows
from veneer.errors import DataError, Interrupted
from veneer.events import Note
from veneer.io.checkpoint import open_checkpoint
from veneer.training.run import train

SETTINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("data.held_out=0.2",),
    ("data.held_out=0.3", "data.split.by=near-duplicates"),
    ("data.held_out=0.3", "data.split={by: label, column: kind}"),
    ("data.held_out=0.3", "data.split={by: group, column: kind}"),
    ("data.max_length=45", "data.overlong=truncate"),
    ("data.max_length=45",),
    ("data.max_length=45", "data.overlong=split", "data.held_out=0.25"),
)


def mixed_rows(seed: int) -> list[dict[str, Any]]:
    """Chats, texts of many lengths, repeats, rows that train nothing once cut, and spelled control tokens."""
    source = random.Random(seed)
    texts = [
        {"text": " ".join(source.choices(["parcel", "crate", "late"], k=source.randint(1, 60)))} for _ in range(20)
    ]
    chats = rows(15, seed)
    found = [*texts, *chats, *chats[:2], {"prompt": "say <|im_end|> " * 9, "completion": "so"}]
    source.shuffle(found)
    return [{**row, "kind": number % 5} for number, row in enumerate(found)]


def said(model: Path, *assignments: str, data: Path) -> tuple[Rows, list[str]]:
    notes: list[str] = []
    config = run_config(model, data, data.parent / "run", *assignments)
    found = load_rows(
        config.data,
        open_checkpoint(model).tokenizer(),
        lambda event: notes.append(event.message) if isinstance(event, Note) else None,
    )
    return found, [note for note in notes if "are read from" not in note]


def trained(found: Rows) -> set[bytes]:
    hashes = b"".join(found.hashes)
    return {hashes[start : start + 8] for start in range(0, len(hashes), 8)}


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_the_disk_and_the_memory_hold_the_same_rows(
    settings: tuple[str, ...], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "BLOCK_ENTRIES", 7)
    data = write_rows(tmp_path / "rows.jsonl", mixed_rows(seed=len(settings)))
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    memory, of_memory = said(tiny_model, *settings, data=data)
    for _ in range(2):
        disk, of_disk = said(tiny_model, *settings, "data.cache=always", cache, data=data)
        for one, other in ((memory.train, disk.train), (memory.eval, disk.eval)):
            assert len(one) == len(other)
            for mine, theirs in zip(one, other, strict=True):
                assert mine.where == theirs.where
                assert mine.tokens.tolist() == theirs.tokens.tolist()
                assert mine.loss_mask.tolist() == theirs.loss_mask.tolist()
        assert disk.digest() == memory.digest()
        assert disk.lengths.tolist() == memory.lengths.tolist()
        assert disk.completion_tokens == memory.completion_tokens
        assert all(disk.evaluated_at_once(most) == memory.evaluated_at_once(most) for most in (1, 100, 10**6))
        assert disk.longer_than(30) == memory.longer_than(30)
        assert trained(disk) == trained(memory)
        # What a run says of the template and the checks stands for the file as a whole there.
        assert [note for note in of_memory if "rows:" in note or (" rows " in note and "veneer data" not in note)] == [
            note for note in of_disk if "rows:" in note or (" rows " in note and "veneer data" not in note)
        ]


@pytest.mark.parametrize("seed", range(8))
def test_the_first_repeat_is_named_whatever_is_said_more_than_once(
    seed: int, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (token_store, stored_rows):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", 3)
    source = random.Random(seed)
    data = write_rows(tmp_path / "rows.jsonl", [{"text": source.choice("abcdefgh"[: 2 + seed])} for _ in range(25)])
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    settings = ("data.held_out=0.3",) if seed % 2 else ()
    _, of_memory = said(tiny_model, *settings, data=data)
    _, of_disk = said(tiny_model, *settings, "data.cache=always", cache, data=data)
    told = [
        [one for one in notes if "repeat an earlier" in one or "are also training" in one]
        for notes in (of_memory, of_disk)
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 1 + seed % 2


@pytest.mark.parametrize("settings", [(), ("data.held_out=0.2", "train.eval_every=2")])
def test_the_adapter_has_the_same_bytes_with_the_cache_and_without(
    settings: tuple[str, ...], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    bytes_of = []
    for cache in ("never", "always", "always"):
        output = tmp_path / f"run{len(bytes_of)}"
        where = f"data.cache_dir={tmp_path / 'cache'}"
        train(run_config(tiny_model, tiny_data, output, "train.epochs=2", f"data.cache={cache}", where, *settings))
        bytes_of.append(
            ((output / "adapter_model.safetensors").read_bytes(), (output / "trained-rows.bin").read_bytes())
        )
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_run_that_goes_on_from_the_cache_has_the_bytes_of_an_undisturbed_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", mixed_rows(seed=5))
    settings = ("train.epochs=3", "train.save_every=3", "data.held_out=0.2", "train.eval_every=4", "data.cache=always",
                f"data.cache_dir={tmp_path / 'cache'}")  # fmt: skip
    whole = train(run_config(tiny_model, data, tmp_path / "whole", *settings))
    config = run_config(tiny_model, data, tmp_path / "run", *settings)
    for end in (2, 8):
        steps = count(1 if end == 2 else 3)
        with pytest.raises(Interrupted):
            train(config, resume=True, stop=lambda steps=steps, end=end: next(steps) == end)  # type: ignore[misc]
    resumed = train(config, resume=True)
    assert resumed.progress.step == whole.progress.step > 8
    for name in ("adapter_model.safetensors", "trained-rows.bin"):
        assert (resumed.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert resumed.progress.best_loss == whole.progress.best_loss


def test_rows_that_are_left_out_are_named_from_the_cache_too(tiny_model: Path, tmp_path: Path) -> None:
    bad: list[Any] = [{"text": 5}, {"messages": [{"role": "user", "content": "no answer"}]}]
    data = write_rows(tmp_path / "rows.jsonl", [*rows(4), *bad, *rows(3, seed=8)])
    keep = ("data.bad_rows=skip", f"data.cache_dir={tmp_path / 'cache'}")
    memory, of_memory = said(tiny_model, *keep, data=data)
    for _ in range(2):
        disk, of_disk = said(tiny_model, *keep, "data.cache=always", data=data)
        assert disk.skipped == memory.skipped
        assert [problem.where for problem in disk.skipped] == [f"{data}:5", f"{data}:6"]
        assert any("2 of 9 rows cannot be used" in note for note in of_disk)
        assert sorted(of_disk) == sorted(of_memory)
    for cache in ("never", "always"):
        with pytest.raises(DataError, match=f"{data}: 2 of 9 rows cannot be used"):
            said(tiny_model, f"data.cache_dir={tmp_path / 'cache'}", f"data.cache={cache}", data=data)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "a file that is refused leaves nothing behind"


def test_large_files_are_kept_on_the_disk_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "STREAMED_BYTES", 1000)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 500)
    large.write_bytes(b"x" * 1000)
    auto = DataSection(file="x")
    assert not is_cached(auto, [small])
    assert is_cached(auto, [small, small])
    assert is_cached(auto, [large])
    assert not is_cached(DataSection.model_validate({"file": "x", "cache": "never"}), [large])
    assert is_cached(DataSection.model_validate({"file": "x", "cache": "always"}), [small])
