"""The rows of a run are read, split and encoded, and what was found is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.models.tiny import TEMPLATE, rows, run_config, write_rows
from helpers.texts import chat_templates as ct
from veneer.config import DataSection
from veneer.data import kind_rows, records
from veneer.data import rows as rows_module
from veneer.data.encoded.chat import template_of
from veneer.data.rows import Rows, load_rows
from veneer.data.sides import Sides, read_sides
from veneer.enums import BadRows, Column, RowKind
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

    def reading(*given: Any) -> Sides:
        started.append(template._child._process)
        return read_sides(*given)

    monkeypatch.setattr(rows_module, "read_sides", reading)
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


@pytest.mark.parametrize("cache", ["never", "always"])
def test_an_error_tells_on_which_side_no_row_is_left(
    cache: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    longer = write_rows(tmp_path / "eval.jsonl", [{"prompt": "word " * 600, "completion": "yes"}])
    kept = f"data.cache={cache}", f"data.cache_dir={tmp_path / 'tokens'}", "data.max_length=500"
    with pytest.raises(DataError, match="no evaluation row is left: of 1 row, 1 are longer than 500 tokens"):
        notes_of(tiny_model, tiny_data, tmp_path, f"data.eval_file={longer}", *kept)
    with pytest.raises(DataError, match="no training row is left: of 1 row, 1 are longer than 500 tokens"):
        notes_of(tiny_model, longer, tmp_path, f"data.eval_file={tiny_data}", *kept)


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


def load_pairs(path: Path, notes: list[str] | None = None, **settings: Any) -> Rows:
    said: list[Event] = []
    rows = load_rows(DataSection(file=str(path), **settings), ct.tokenizer("chatml"), said.append, RowKind.PAIRS)
    if notes is not None:
        notes += [event.message for event in said if isinstance(event, Note)]
    return rows


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}?", "chosen": f"Answer {n}.", "rejected": f"No {n}, never."} for n in range(count)]


def test_pairs_are_encoded_in_turn_and_only_answers_train(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("chatml")
    rows = load_pairs(write_rows(tmp_path / "pairs.jsonl", numbered(3)))
    assert (rows.together, rows.count, len(rows.train)) == (2, 3, 6)
    for example, answer in zip(rows.train, ["Answer 0.", "No 0, never.", "Answer 1."], strict=False):
        trained = [int(token) for token, on in zip(example.tokens, example.loss_mask, strict=True) if on]
        assert tokenizer.decode(trained[:-1]) == answer
        assert trained[-1] == tokenizer.backend.token_to_id("<|im_end|>"), "the end is learned, and once"
        assert trained.count(trained[-1]) == 1


def test_a_pair_with_one_answer_that_is_too_long_is_dropped_and_counted(tmp_path: Path) -> None:
    """Others hold the limit for the chosen answer alone, or cut the end of the rejected one."""
    content = numbered(4)
    content[1]["rejected"] = "never " * 80
    content[2]["chosen"] = "surely " * 80
    notes: list[str] = []
    rows = load_pairs(write_rows(tmp_path / "pairs.jsonl", content), notes, max_length=100)
    assert [example.where.rpartition(":")[2] for example in rows.train] == ["1", "1", "4", "4"]
    assert any("2 training rows longer than data.max_length=100 and left out" in note for note in notes)


def test_the_column_that_pairs_are_split_by_is_not_said_to_be_unused(tmp_path: Path) -> None:
    content = [row | {"customer": f"c{n % 3}", "id": n} for n, row in enumerate(numbered(9))]
    notes: list[str] = []
    file = write_rows(tmp_path / "pairs.jsonl", content)
    load_pairs(file, notes, held_out=0.3, split={"by": "group", "column": "customer"})
    assert [note.partition(" used: ")[2] for note in notes if " not used: " in note] == ["'id' (9 rows)"]


def test_bad_pairs_are_refused_by_cause_or_skipped(tmp_path: Path) -> None:
    content = [*numbered(3), {"prompt": "Q", "chosen": "a", "rejected": "a"}, {"prompt": "Q"}]
    file = write_rows(tmp_path / "pairs.jsonl", content)
    with pytest.raises(DataError, match=r"(?s)2 of 5 rows cannot be used:.*are the same.*no pair of answers"):
        load_pairs(file)
    rows = load_pairs(file, bad_rows=BadRows.SKIP)
    assert (rows.count, len(rows.skipped)) == (3, 2)


def test_held_out_pairs_stay_together_and_repeats_are_said(tmp_path: Path) -> None:
    content = numbered(20)
    content[15:] = content[:5]
    notes: list[str] = []
    rows = load_pairs(write_rows(tmp_path / "pairs.jsonl", content), notes, held_out=0.25)
    assert (rows.count, rows.eval_count) == (15, 5)
    for part in (rows.train, rows.eval):
        assert [one.where for one in part[::2]] == [one.where for one in part[1::2]]
    assert any("repeat an earlier one" in note or "are also training rows" in note for note in notes)


def test_a_tokenizer_that_would_merge_over_the_boundary_does_not(tmp_path: Path) -> None:
    """The prompt's tokens are those that generation begins with, whatever the answer begins with."""
    tokenizer = ct.tokenizer(None)
    file = write_rows(tmp_path / "p.jsonl", [{"prompt": "x: ", "chosen": "1 2", "rejected": "12"}])
    rows = load_rows(DataSection(file=str(file)), tokenizer, kind=RowKind.PAIRS)
    prompts = [one.tokens[: int(np.argmax(one.loss_mask))].tolist() for one in rows.train]
    assert prompts == [tokenizer.encode("x: ")] * 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", "<think>\nwell\n</think>\n\nYes."),
        ("thinking", "well\n</think>\n\nYes."),
        ("chatml", "well</think>\n\nYes."),
    ],
)
def test_an_answer_that_ends_a_thought_which_it_does_not_begin_trains_whole(
    name: str, expected: str, tmp_path: Path
) -> None:
    tokenizer = ct.tokenizer(name)
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": "Q?", "chosen": "well</think>\n\nYes.", "rejected": "No."}])
    chosen = load_rows(DataSection(file=str(rows)), tokenizer, kind=RowKind.PAIRS).train[0]
    assert tokenizer.decode(chosen.tokens[chosen.loss_mask].tolist()) == expected


def test_of_a_file_that_is_named_twice_the_share_is_held_out(tmp_path: Path) -> None:
    """Each of its rows is there twice, at one place; all rows of such places were held out."""
    file = {"file": str(write_rows(tmp_path / "pairs.jsonl", numbered(20)))}
    for share, held in ((0.3, 12), (0.5, 20)):
        data = DataSection(sources=(file, file), held_out=share)
        rows = load_rows(data, ct.tokenizer("chatml"), kind=RowKind.PAIRS)
        assert (rows.count, len(rows.eval)) == (40 - held, 2 * held)


def test_several_files_make_one_run_and_a_weighted_one_counts_pairs(tmp_path: Path) -> None:
    first, second = (write_rows(tmp_path / f"{name}.jsonl", numbered(count)) for name, count in (("a", 4), ("b", 6)))
    sources = ({"file": str(first), "weight": 2.0}, {"file": str(second)})
    rows = load_rows(DataSection(sources=sources), ct.tokenizer("chatml"), kind=RowKind.PAIRS)
    assert rows.count == 10
    assert [(one.rows, one.weight) for one in rows.sources] == [(4, 2.0), (6, 1.0)]
    assert rows.lengths.tolist() == [sum(len(one.tokens) for one in rows.train[at : at + 2]) for at in range(0, 20, 2)]


@pytest.mark.parametrize("cache", ["never", "always"])
def test_pretraining_takes_plain_texts_alone(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [{"text": f"Text {n} says something."} for n in range(4)]
    file = write_rows(tmp_path / "texts.jsonl", texts)
    tokens = {"cache": cache, "cache_dir": str(tmp_path / "cache")}

    def load(path: Path, kind: RowKind = RowKind.TEXTS, **more: str) -> Rows:
        data = DataSection.model_validate({"file": str(path), **tokens, **more})
        return load_rows(data, ct.tokenizer("chatml"), kind=kind)

    rows = load(file)
    assert rows.count == 4
    assert all(one.supervised >= len(one.tokens) - 1 for one in rows.train)
    mixed = write_rows(tmp_path / "mixed.jsonl", [*texts, {"prompt": "Q", "completion": "A"}])
    assert load(mixed, RowKind.ANSWERS, bad_rows="skip").count == 5
    with pytest.raises(DataError, match=r"1 of 5 rows cannot be used:\n.*this is not a plain text"):
        load(mixed)
    rows = load(mixed, bad_rows="skip")
    assert (rows.count, [problem.where for problem in rows.skipped]) == (4, [f"{mixed}:5"])
    if cache == "always":
        for module in (kind_rows, records):
            monkeypatch.setattr(module, "iterate_rows", None)
        assert load(mixed, bad_rows="skip").count == 4, "tokens in the cache are read without the file's rows"


def test_labels_follow_their_rows_through_what_is_left_out_and_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {n}?", "completion": f"A {n}.", "label": n % 3 == 0} for n in range(12)]
    rows[4]["completion"] = "long " * 90
    file = write_rows(tmp_path / "labels.jsonl", rows)
    data = DataSection(file=str(file), held_out=0.25, max_length=60)
    found = load_rows(data, ct.tokenizer("chatml"), kind=RowKind.LABELLED)
    assert not any("labelled" in note for note in labelled_notes(file))
    lines = [int(one.where.rpartition(":")[2]) for one in (*found.train, *found.eval)]
    assert 5 not in lines
    assert found.labels == tuple((line - 1) % 3 == 0 for line in lines)


def test_a_split_by_label_says_that_it_goes_by_answers_until_a_column_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {n}?", "completion": f"A {n // 2}.", "label": n % 3 == 0} for n in range(12)]
    file = write_rows(tmp_path / "labels.jsonl", rows)
    split: dict[str, Any] = {"held_out": 0.25, "split": {"by": "label"}}
    assert any("data.split.column: label" in note for note in labelled_notes(file, **split))
    split["split"]["column"] = "label"
    assert not any("data.split" in note for note in labelled_notes(file, **split))
    found = load_rows(DataSection(file=str(file), **split), ct.tokenizer("chatml"), kind=RowKind.LABELLED)
    assert sorted(found.labels[-3:]) == [False, False, True]


def labelled_notes(file: Path, **settings: Any) -> list[str]:
    """What is said of rows with labels while they are read."""
    said: list[Event] = []
    load_rows(DataSection(file=str(file), **settings), ct.tokenizer("chatml"), said.append, RowKind.LABELLED)
    return [event.message for event in said if isinstance(event, Note)]


@pytest.mark.parametrize(("label", "word"), [(1, "desirable"), ("false", "not desirable")])
def test_labels_that_are_all_alike_are_said(label: object, word: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {n}?", "completion": f"A {n}.", "label": label} for n in range(12)]
    notes = labelled_notes(write_rows(tmp_path / "labels.jsonl", rows))
    assert any(note.startswith(f"all 12 training rows are labelled {word}: ") for note in notes)
