"""Rows that one process reads are those that the others map into memory."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from helpers.models.tiny import run_config
from veneer.data.forms.prompts import to_prompt
from veneer.data.rows import Rows, load_rows
from veneer.io.files import remove_partial
from veneer.io.leftovers import HELD, PARTIAL
from veneer.io.tokenizer import from_directory
from veneer.processes.group import Alone
from veneer.processes.ranks import Ranks
from veneer.training.parallel.shared_rows import FILE, SCRATCH, SharedRows, read_rows, write_rows


class Notes(Alone):
    """A group of a rank that reads what others left."""

    def __init__(self, ranks: Ranks, left: dict[str, str]):
        self.ranks = ranks
        self.left = left

    def publish(self, key: str, text: str) -> None:
        self.left[key] = text

    def awaited(self, key: str) -> str:
        return self.left[key]


@pytest.fixture
def read(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Rows:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "data.held_out=0.2")
    return load_rows(config.data, from_directory(tiny_model))


def test_rows_come_back_as_they_were(read: Rows, tmp_path: Path) -> None:
    read = replace(read, labels=(True, False), further=(2, 1))
    write_rows(tmp_path / "rows", read)
    again = read_rows(tmp_path / "rows")
    assert (again.labels, again.further) == ((True, False), (2, 1))
    assert again.digest() == read.digest()
    assert [len(again.train), len(again.eval)] == [len(read.train), len(read.eval)]
    assert [one.where for one in again.train] == [one.where for one in read.train]
    assert isinstance(again.train[0].tokens.base, np.memmap)
    assert again.train[0].tokens.dtype == np.int32


def test_prompts_come_back_with_their_columns(read: Rows, tmp_path: Path) -> None:
    said = {"messages": [{"role": "user", "content": "where?"}], "amount": float("nan"), "not_finite": [1.5, None]}
    prompts = to_prompt(said, "rows:1"), to_prompt({"prompt": "when?", "day": date(2026, 2, 3)}, "rows:2")
    write_rows(tmp_path / "rows", replace(read, prompts=prompts))
    first, second = read_rows(tmp_path / "rows").prompts
    assert math.isnan(first.columns["amount"])
    assert first.columns["not_finite"] == [1.5, None]
    assert (first.record, first.given, first.under) == (prompts[0].record, prompts[0].given, "messages")
    assert second == replace(prompts[1], columns={"day": "2026-02-03"})


def test_they_are_read_once_on_each_host_that_does_not_see_the_file(
    read: Rows, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "data.held_out=0.2")
    tokenizer, left, reads = from_directory(tiny_model), {}, []

    def counted(*arguments: object) -> Rows:
        reads.append(1)
        return read

    monkeypatch.setattr("veneer.training.parallel.shared_rows.load_rows", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "run").mkdir()

    def rank(number: int, host: str, local: int) -> SharedRows:
        return SharedRows(
            Notes(Ranks(rank=number, world=4, local_rank=local, local_world=2, host=host), left), tmp_path / "run"
        )

    first, second = rank(0, "a", 0), rank(1, "a", 1)
    assert first(config.data, tokenizer).digest() == second(config.data, tokenizer).digest() == read.digest()
    assert len(reads) == 1
    left["rows"] = "/not/seen/here"
    third, fourth = rank(2, "b", 0), rank(3, "b", 1)
    assert third(config.data, tokenizer).digest() == fourth(config.data, tokenizer).digest() == read.digest()
    assert len(reads) == 2
    for one in (first, second, third, fourth):
        one.remove()
    assert list(tmp_path.rglob(FILE)) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_the_file_of_a_killed_run_is_deleted_by_the_next_run_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"rows")
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_on_another_host_is_deleted_by_the_next(
    read: Rows, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("veneer.training.parallel.shared_rows.load_rows", lambda *_: read)
    left = tmp_path / f"{PARTIAL}1.1-{SCRATCH}"
    left.mkdir()
    left.with_name(left.name + HELD).touch()
    group = Notes(Ranks(rank=2, world=4, local_rank=0, local_world=2, host="b"), {"rows": "/not/seen/here"})
    rows = SharedRows(group, tmp_path / "run")
    rows(run_config(tiny_model, tiny_data, tmp_path / "run").data, from_directory(tiny_model))
    assert not left.exists()
    assert Path(group.left["rows on b"]).is_file()
    rows.remove()
    assert list(tmp_path.glob(f"{PARTIAL}*")) == []
