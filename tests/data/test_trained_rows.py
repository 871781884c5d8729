"""Rows that were trained are known again by what they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from helpers.models.tiny import rows, write_rows
from veneer.data import trained_rows
from veneer.data.records import read_records
from veneer.data.trained_rows import HASH_BYTES, row_hashes, trained_among, write_hashes
from veneer.errors import DataError


def test_the_rows_that_are_in_both_files_are_found_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        monkeypatch.setattr(trained_rows, "HASHES_AT_ONCE", (1, 7, 39, 40, 1000)[seed])
        every = rows(60, seed)
        source = random.Random(seed)
        first, second = (source.sample(every, 40) for _ in range(2))
        trained = read_records(write_rows(tmp_path / "first.jsonl", first))
        asked = read_records(write_rows(tmp_path / "second.jsonl", second))
        known = [json.dumps(row, sort_keys=True) for row in first]
        expected = [f"{tmp_path / 'second.jsonl'}:{line}" for line, row in enumerate(second, start=1)
                    if json.dumps(row, sort_keys=True) in known]  # fmt: skip
        write_hashes(tmp_path / "hashes", (row_hashes(trained[:15]), row_hashes(trained[15:])))
        assert trained_among(tmp_path / "hashes", asked) == expected
        assert 0 < len(expected) < 40
        assert (tmp_path / "hashes").stat().st_size == HASH_BYTES * 40


def test_the_format_of_the_file_does_not_matter(tmp_path: Path) -> None:
    lines = write_rows(tmp_path / "one.jsonl", [{"prompt": "1 + 1?", "completion": "2"}])
    (tmp_path / "one.csv").write_text("prompt,completion\n1 + 1?,2\n1 + 1?,3\n")
    write_hashes(tmp_path / "hashes", (row_hashes(read_records(lines)),))
    assert trained_among(tmp_path / "hashes", read_records(tmp_path / "one.csv")) == [f"{tmp_path / 'one.csv'}:2"]


def test_hashes_are_sorted_in_parts_as_they_are_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [random.Random(seed).randbytes(HASH_BYTES * 1000) for seed in range(3)]
    every = b"".join(pieces)
    write_hashes(tmp_path / "once", pieces)
    monkeypatch.setattr(trained_rows, "HASHES_AT_ONCE", 70)
    write_hashes(tmp_path / "parts", pieces)
    expected = b"".join(sorted(every[start : start + HASH_BYTES] for start in range(0, len(every), HASH_BYTES)))
    assert (tmp_path / "once").read_bytes() == expected
    assert (tmp_path / "parts").read_bytes() == expected
    write_hashes(tmp_path / "none", ())
    assert (tmp_path / "none").read_bytes() == b""


def test_without_a_file_nothing_is_said_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    asked = read_records(write_rows(tmp_path / "rows.jsonl", rows(3)))
    assert trained_among(tmp_path / "absent", asked) == []
    (tmp_path / "torn").write_bytes(b"123456789")
    with pytest.raises(DataError, match="torn is damaged: it has 9 bytes"):
        trained_among(tmp_path / "torn", asked)
