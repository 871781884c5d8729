"""The memory of an evaluation: what of rows decides on it, and that a real one takes no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import rows, write_rows
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.records import read_rows
from veneer.errors import DataError
from veneer.evaluation.memory import row_lengths
from veneer.evaluation.rows import EXTRA_TOKENS
from veneer.io.checkpoint import open_checkpoint


def encoder(model: Path) -> Encoder:
    tokenizer = open_checkpoint(model).tokenizer()
    return Encoder(tokenizer, template_of(tokenizer))


def test_the_longest_row_and_the_longest_answer_decide(tiny_model: Path, tmp_path: Path) -> None:
    records = [record for record, _ in read_rows(write_rows(tmp_path / "rows.jsonl", rows(7)))]
    found, one = row_lengths(records, encoder(tiny_model)), encoder(tiny_model)
    every = [one.encode(record) for record in records]
    assert (found.rows, found.longest) == (7, max(len(example.tokens) for example in every))
    assert found.answer == max(example.supervised for example in every) + EXTRA_TOKENS


def test_rows_that_the_template_refuses_are_all_named(tiny_model: Path, tmp_path: Path) -> None:
    said = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    records = [record for record, _ in read_rows(write_rows(tmp_path / "rows.jsonl", [*rows(2), said, said]))]
    tokenizer = open_checkpoint(tiny_model).tokenizer()
    refusing = Encoder(tokenizer, None)  # without a template, turns cannot be written
    with pytest.raises(DataError, match="rows cannot be encoded"):
        row_lengths(records, refusing)
