"""The rows of a run are read, split and encoded, and what was found is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny import TEMPLATE, rows, run_config, write_rows
from veneer.config import DataSection
from veneer.data import rows as rows_module
from veneer.data.encoded.chat import template_of
from veneer.data.records import RecordReader
from veneer.data.rows import load_rows
from veneer.enums import Column
from veneer.errors import DataError
from veneer.events import Event, Note, StageEnded, StageProgress, Subscriber
from veneer.io.checkpoint import open_checkpoint


def noting(notes: list[str]) -> Subscriber:
    return lambda event: notes.append(event.message) if isinstance(event, Note) else None


def notes_of(model: Path, data: Path, output: Path, *assignments: str) -> list[str]:
    notes: list[str] = []
    config = run_config(model, data, output, *assignments)
    load_rows(config.data, open_checkpoint(model).tokenizer(), noting(notes))
    return notes


def test_the_process_of_the_template_makes_ready_while_rows_are_read(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = replace(open_checkpoint(tiny_model).tokenizer(), chat_template=f"{TEMPLATE}{{# its own #}}")
    template = template_of(tokenizer)
    assert template is not None
    assert template._child._process is None
    started = []

    def reading(files: Sequence[str], *settings: Any) -> RecordReader:
        started.append(template._child._process)
        return RecordReader(files, *settings)

    monkeypatch.setattr(rows_module, "RecordReader", reading)
    load_rows(run_config(tiny_model, tiny_data, tmp_path).data, tokenizer)
    (process,) = started
    assert process is not None
    assert template._child._process is process


def test_labels_are_a_part_of_the_digest(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    read = load_rows(run_config(tiny_model, tiny_data, tmp_path).data, open_checkpoint(tiny_model).tokenizer())
    digests = {replace(read, labels=labels).digest() for labels in ((), (True, False), (False, True))}
    assert len(digests) == 3


def test_rows_on_both_sides_are_reported(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    mixed = write_rows(tmp_path / "eval.jsonl", [*rows(2), *rows(3, seed=9)])
    notes = notes_of(tiny_model, tiny_data, tmp_path, f"data.eval_file={mixed}")
    (note,) = [note for note in notes if "evaluation rows are also training rows" in note]
    assert note.startswith("2 of 5 ")
    assert f"{mixed}:1 = {tiny_data}:1" in note
    apart = write_rows(tmp_path / "apart.jsonl", rows(5, seed=9))
    assert not any(
        "also training" in note for note in notes_of(tiny_model, tiny_data, tmp_path, f"data.eval_file={apart}")
    )


def test_repeated_rows_that_a_split_puts_on_both_sides_are_reported(tiny_model: Path, tmp_path: Path) -> None:
    doubled = write_rows(tmp_path / "rows.jsonl", [*rows(10), *rows(10)])
    notes = notes_of(tiny_model, doubled, tmp_path, "data.held_out=0.3")
    assert any("evaluation rows are also training rows" in note for note in notes)
    assert any("repeat an earlier one" in note for note in notes)


def test_runs_of_several_seeds_are_evaluated_on_the_same_rows(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    tokenizer = open_checkpoint(tiny_model).tokenizer()
    configs = [run_config(tiny_model, tiny_data, tmp_path, "data.held_out=0.3", f"train.seed={n}") for n in (0, 1)]
    rows = [load_rows(config.data, tokenizer) for config in configs]
    assert rows[0].digest() == rows[1].digest()


def test_rows_that_cannot_be_used_are_left_out_where_asked(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows(4), {"text": 5}, *rows(2, seed=3)])
    other = write_rows(tmp_path / "eval.jsonl", [*rows(2, seed=5), {"messages": []}])
    tokenizer = open_checkpoint(tiny_model).tokenizer()
    config = run_config(tiny_model, data, tmp_path, f"data.eval_file={other}")
    with pytest.raises(DataError, match=f"{data}:5: text must be a string"):
        load_rows(config.data, tokenizer)
    notes: list[str] = []
    config = run_config(tiny_model, data, tmp_path, f"data.eval_file={other}", "data.bad_rows=skip")
    found = load_rows(config.data, tokenizer, noting(notes))
    assert (len(found.train), len(found.eval)) == (6, 2)
    assert [problem.where for problem in found.skipped] == [f"{data}:5", f"{other}:3"]
    assert sum("cannot be used and are left out" in note for note in notes) == 2


def test_labelled_answers_are_not_imitated(tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row | {"label": n > 2} for n, row in enumerate(rows(6))])
    tokenizer = open_checkpoint(tiny_model).tokenizer()
    with pytest.raises(DataError, match=r"6 of 6 rows cannot be used:\n.*for objective: kto"):
        load_rows(DataSection(file=str(file)), tokenizer)
    columns = {Column(key): key for key in rows(1)[0]}
    assert len(load_rows(DataSection(file=str(file), columns=columns), tokenizer).train) == 6


def test_columns_are_mapped_and_the_others_named(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("text,category,id\nWhere is it?,parcel,1\nWho is it?,crate,2\n")
    notes = notes_of(tiny_model, data, tmp_path, "data.columns={prompt: text, completion: category}")
    assert f"{data}: these columns or keys are not used: 'id' (2 rows)" in notes


def test_tokenising_tells_how_far_it_is(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    config = run_config(tiny_model, tiny_data, tmp_path, "data.held_out=0.25")
    load_rows(config.data, open_checkpoint(tiny_model).tokenizer(), seen.append)
    last = {event.stage: (event.done, event.total) for event in seen if isinstance(event, StageProgress)}
    assert last == {"tokenising training rows": (15, 15), "tokenising evaluation rows": (5, 5)}
    assert [event.stage for event in seen if isinstance(event, StageEnded)] == list(last)
