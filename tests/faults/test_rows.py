"""Rows that cannot be trained as they are: counted and named, never dropped in silence."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import examples, rows, run_config, write_rows
from veneer.data.records import read_file
from veneer.enums import BadRows
from veneer.errors import DataError
from veneer.events import Event, Note, StepDone
from veneer.training.run import train
from veneer.training.run_inputs import prepare_run


@pytest.mark.scenario(number=22)
def test_rows_longer_than_the_context_are_reported(tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    data = write_rows(tmp_path / "rows.jsonl", rows(20))
    seen: list[Event] = []
    train(run_config(model, data, tmp_path / "run", "train.steps=1"), emit=seen.append)
    (note,) = [e.message for e in seen if isinstance(e, Note) and "context" in e.message]
    long = [row for row in examples(tiny_model, data) if len(row.tokens) > 40]
    assert 0 < len(long) < 20
    assert note.startswith(f"{len(long)} rows longer than the model's context of 40 tokens")


def test_prompts_that_leave_no_room_for_an_answer_are_reported_with_the_whole_context(
    tmp_path: Path, tiny_model: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "why" * count, "answer": "so"} for count in (1, 600)])
    settings = ("objective=grpo", "rewards=[{metric: exact}]", "grpo.max_completion_length=8", "train.steps=1")
    seen: list[Event] = []
    config = run_config(tiny_model, data, tmp_path / "run", *settings, "data.max_length=5000")
    prepare_run(config, seen.append)
    (note,) = [e.message for e in seen if isinstance(e, Note) and "context" in e.message]
    left = "1 row longer than the 504 tokens that the model's context of 512 tokens leaves with an answer of 8 ("
    assert note.startswith(left)


@pytest.mark.scenario(number=21)
@pytest.mark.parametrize("train_on", ["", "data.max_length=5"])
def test_rows_of_which_nothing_trains_are_an_error_and_no_division_by_zero(
    train_on: str, tiny_model: Path, tmp_path: Path
) -> None:
    asked = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    data = write_rows(tmp_path / "rows.jsonl", rows(4) if train_on else [asked] * 4)
    with pytest.raises(DataError, match=r"no training row is left|trains? nothing|nothing to train"):
        train(run_config(tiny_model, data, tmp_path / "run", *([train_on] if train_on else [])))
    assert not list((tmp_path / "run").rglob("step-*"))


@pytest.mark.scenario(number=21)
def test_a_row_of_which_nothing_trains_is_left_out_and_named(tiny_model: Path, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "late " * 100}, {"role": "assistant", "content": "b"}]}
    data = write_rows(tmp_path / "rows.jsonl", [*rows(4), long])
    seen: list[Event] = []
    settings = ("train.steps=2", "data.max_length=100", "data.overlong=truncate")
    train(run_config(tiny_model, data, tmp_path / "run", *settings), emit=seen.append)
    assert any(f"{data}:5" in event.message for event in seen if isinstance(event, Note))
    losses = [event.loss for event in seen if isinstance(event, StepDone)]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


BROKEN = {
    "jsonl": ['{"prompt": "q"', "not json", '{"prompt": 5, "completion": "a"}', "[]", '{"x": "\\ud800"}'],
    "csv": ["one cell", "a,b,c", "\0,a", "\udcff,a"],
}


@pytest.mark.repeated
@pytest.mark.scenario(number=24)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_of_many_rows_the_bad_ones_are_counted_exactly(suffix: str, tmp_path: Path, rounds: int) -> None:
    count = min(100_000, 4_000 * rounds)
    source = random.Random(rounds)
    bad = sorted(source.sample(range(count), count // 100))
    lines = [f'{{"prompt": "q {n}", "completion": "a"}}' if suffix == "jsonl" else f"q {n},a" for n in range(count)]
    for n in bad:
        lines[n] = source.choice(BROKEN[suffix])
    file = tmp_path / f"rows.{suffix}"
    text = "\n".join(lines if suffix == "jsonl" else ["prompt,completion", *lines]) + "\n"
    file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    first = 1 if suffix == "jsonl" else 2
    with pytest.raises(DataError, match=f"{len(bad):,} of {count:,} rows cannot be used|{len(bad)} of {count} rows"):
        read_file(file)
    found = read_file(file, bad_rows=BadRows.SKIP)
    assert len(found.records) == count - len(bad)
    assert [problem.where for problem in found.skipped] == [f"{file}:{n + first}" for n in bad]
