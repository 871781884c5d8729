"""Rows that cannot be trained as they are: counted and named, never dropped in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tiny import examples, rows, run_config, write_rows
from veneer.events import Event, Note
from veneer.training.run import train


@pytest.mark.scenario(number=22)
def test_rows_longer_than_the_context_are_reported(tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    data = write_rows(tmp_path / "rows.jsonl", rows(20))
    seen: list[Event] = []
    train(run_config(model, data, tmp_path / "run", "train.steps=1"), subscribers=[seen.append])
    (note,) = [e.message for e in seen if isinstance(e, Note) and "context" in e.message]
    long = [row for row in examples(tiny_model, data) if len(row.tokens) > 40]
    assert 0 < len(long) < 20
    assert note.startswith(f"{len(long)} rows are longer than the model's context of 40 tokens")
