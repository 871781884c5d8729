"""Several processes encode what one encodes, to the byte of the cache; and what happens when one of them ends."""

from __future__ import annotations

import gc
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from data.encoded.test_stored_rows import mixed_rows
from helpers.models.tiny import rows, run_config, write_rows
from helpers.processes.pooled_jobs import ended, started
from veneer.data.encoded import encoding_pool, token_cache
from veneer.data.encoded.encoding import encode_each, encoder_of
from veneer.data.encoded.encoding_pool import EncodingJob, encode_in_processes
from veneer.data.encoded.windows import WINDOW_CHARS
from veneer.data.forms.record import Record
from veneer.data.lint.audit import RowAudit
from veneer.data.records import read_records
from veneer.data.rows import load_rows
from veneer.enums import Check, Overlong
from veneer.errors import DataError, Interrupted
from veneer.events import Event, StageBegun, StageEnded, StageProgress, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_checkpoint(tiny_model).tokenizer()


def job(tokenizer: Tokenizer, **changed: object) -> EncodingJob:
    return replace(EncodingJob(tokenizer, 45, Overlong.DROP, (Check.NOTHING_TRAINED,)), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        ("data.max_length=45", "data.overlong=split", "data.bad_rows=skip"),
        ("data.max_length=60", "data.overlong=truncate", "data.bad_rows=skip", "data.checks=[end-untrained]"),
    ],
    ids=["split", "truncate"],
)
def test_the_cache_has_the_same_bytes_whatever_the_number_of_processes(
    settings: tuple[str, ...], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [*mixed_rows(seed=3), {"text": 5}, {"text": "half \ud83d a character"}, *mixed_rows(seed=4)]
    secret = {"prompt": "key?", "completion": "AKIA" + "IOSFODNN7" + "EXAMPLE"}
    data = write_rows(tmp_path / "rows.jsonl", [*content[:30], secret, *content[30:], secret])
    monkeypatch.setattr(token_cache, "ONE_PROCESS_BYTES", 0)
    monkeypatch.setattr(encoding_pool, "GROUP_ROWS", 7)
    found = []
    for processes in (1, 3):
        monkeypatch.setattr(token_cache, "available_cores", lambda processes=processes: processes)
        cache = tmp_path / f"cache-{processes}"
        own = ("data.cache=always", f"data.cache_dir={cache}")
        seen: list[Event] = []
        config = run_config(tiny_model, data, tmp_path / "run", *own, *settings)
        load_rows(config.data, open_checkpoint(tiny_model).tokenizer(), seen.append)
        (folder,) = cache.iterdir()
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert any(isinstance(one, StageBegun) and one.stage.startswith("tokenising") for one in seen)
    assert found[0] == found[1]
    assert len(json.loads(found[0]["meta.json"])["notes"]) > 1
    assert found[0]["problems.jsonl"]


def test_a_job_that_cannot_be_done_ends_with_the_error_of_one_process(tokenizer: Tokenizer, tiny_data: Path) -> None:
    records = read_records(tiny_data)
    with pytest.raises(DataError) as alone:
        list(encode_each(records, encoder_of(tokenizer), max_length=1, overlong=Overlong.DROP))
    with pytest.raises(DataError) as together:
        list(encode_in_processes(records, job(tokenizer, max_length=1), RowAudit(tokenizer, ()), 2, ignore))
    assert str(together.value) == str(alone.value)


def test_a_row_that_takes_long_is_told_of_by_the_process_that_encodes_it(tokenizer: Tokenizer) -> None:
    told: list[Event] = []
    text = "words " * (WINDOW_CHARS // 6 + 5)
    records = [Record("f:1", text="a b"), Record("f:2", text=text)]
    whole = job(tokenizer, overlong=Overlong.SPLIT)
    found = list(encode_in_processes(records, whole, RowAudit(tokenizer, ()), 1, told.append))
    assert [one.record.where for one in found] == ["f:1", "f:2"]
    begun, *steps, ended = told
    assert (begun, type(ended)) == (
        StageBegun(stage="tokenising f:2", total=len(text), unit="characters"),
        StageEnded,
    )
    assert isinstance(steps[-1], StageProgress)
    assert steps[-1].done == len(text)


def test_a_process_that_is_killed_ends_the_job_and_all_others(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = read_records(write_rows(tmp_path / "rows.jsonl", rows(60)))
    monkeypatch.setattr(encoding_pool, "GROUP_ROWS", 1)
    workers = started(monkeypatch)
    each = encode_in_processes(records, job(tokenizer), RowAudit(tokenizer, ()), 2, ignore)
    next(each)
    os.kill(workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="ended with -9, which often means that the memory was full"):
        list(each)
    assert len(workers) == 2
    assert ended(workers)
    gc.collect()  # what the failure has left ends without a word on standard error (pytest would fail)


def test_a_stop_ends_the_processes(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_records(write_rows(tmp_path / "rows.jsonl", rows(60)))

    def interrupted() -> object:
        yield from records[:40]
        raise Interrupted("stopped")

    monkeypatch.setattr(encoding_pool, "GROUP_ROWS", 4)
    workers = started(monkeypatch)
    with pytest.raises(Interrupted):
        list(encode_in_processes(interrupted(), job(tokenizer), RowAudit(tokenizer, ()), 2, ignore))  # type: ignore[arg-type]
    assert len(workers) == 2
    assert ended(workers)
