"""A store gives back what was written into it, and holds no row in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.models.tiny import write_rows
from veneer.data.encoded import token_store
from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import EncodedRow, Fate
from veneer.data.encoded.marks import Marks
from veneer.data.encoded.token_store import StoredExamples, StoreWriter, TokenStore
from veneer.data.problems import RowProblem
from veneer.data.records import read_records
from veneer.errors import DataError

MEASURED = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.models import tiny
from veneer.training.run import train

base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model, data, folder = map(Path, sys.argv[2:5])
train(tiny.run_config(model, data, folder / data.stem, "train.steps=30", "train.save_every=30", *sys.argv[5:]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def example(source: np.random.Generator, where: str) -> Example:
    length = int(source.integers(2, 40))
    mask = source.random(length) < 0.5
    mask[0] = False
    return Example(source.integers(0, 2**31 - 1, length).astype(np.int32), mask, where)


def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "_EXAMPLES_PER_RELEASE", 5)  # pages are given back between reads
    source = np.random.default_rng(0)
    file = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {number}"} for number in range(50)])
    written: list[Example] = []
    (tmp_path / "store").mkdir()
    with StoreWriter(tmp_path / "store", [str(file)]) as writer:
        for record in read_records(file):
            own = tuple(example(source, record.where) for _ in range(int(source.integers(0, 3))))
            fate = (Fate.DROPPED, Fate.KEPT, Fate.SPLIT)[len(own)]
            writer.add(EncodedRow(record, fate, own, 50))
            written += own
        writer.finish([f"{file}: a note"], [RowProblem(f"{file}:3", "no\u2028reason \udc80")])
    moved = ["elsewhere.jsonl"]
    store = TokenStore(tmp_path / "store", moved)
    found = StoredExamples(store)
    assert len(found) == len(written)
    for number in source.permutation(len(written)).tolist():
        one, other = found[number], written[number]
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.loss_mask.tolist() == other.loss_mask.tolist()
        assert one.where == found.where(number) == other.where.replace(str(file), "elsewhere.jsonl")
    assert found.lengths.tolist() == [len(one.tokens) for one in written]
    assert found.supervised == sum(one.supervised for one in written)
    assert store.notes() == ["elsewhere.jsonl: a note"]
    assert store.problems() == [RowProblem("elsewhere.jsonl:3", "no\u2028reason \udc80")]
    with pytest.raises(IndexError):
        found[len(written)]
    taken = source.random(len(store)) < 0.5
    some = StoredExamples(store, Marks.of(taken))
    entries = [number for number in range(len(store)) if store.blocks and taken[number]]
    kept = [number for number in entries if next(store.blocks())["length"][number]]
    assert [one.where for one in some] == [store.where(number) for number in kept]


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"format": 99, "files": {}}')
    with pytest.raises(DataError, match="format 99"):
        TokenStore(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        TokenStore(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_memory_does_not_grow_with_the_file(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    text = "The parcel is late and the crate is blue. " * 20
    row = {"text": text}
    if kind == "chats":
        row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}  # type: ignore[dict-item]
    grown = []
    for size in (1, 20):
        data = tmp_path / f"{kind}{size}.jsonl"
        write_rows(data, [row | {"id": number} for number in range(size * 1_000_000 // len(str(row)))])
        command = [sys.executable, "-c", MEASURED, str(Path(__file__).parents[2]), str(tiny_model), str(data)]
        command += [str(tmp_path), "data.cache=always", f"data.cache_dir={tmp_path / 'cache'}", "data.max_length=4096"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(int(done.stdout.split()[-1]) / 1e3)
    assert grown[1] < grown[0] + 12, f"MB beyond the libraries' own, for 1 MB and 20 MB of rows: {grown}"
