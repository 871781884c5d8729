from __future__ import annotations

from pathlib import Path

from helpers.models.tiny import rows, run_config, write_rows
from veneer.data.records import read_records
from veneer.evaluation.seen_rows import said_of_seen_rows, seen_rows
from veneer.training.run import train


def test_rows_that_an_adapter_was_trained_on_are_named(tiny_model: Path, tmp_path: Path) -> None:
    trained = write_rows(tmp_path / "trained.jsonl", rows(4))
    asked = write_rows(tmp_path / "asked.jsonl", [*rows(2, seed=9), *rows(2)])
    output = train(run_config(tiny_model, trained, tmp_path / "run", "train.steps=1")).output
    seen = seen_rows([str(output), str(tmp_path)], read_records(asked))
    assert seen == {str(output): [f"{asked}:3", f"{asked}:4"]}
    (said,) = said_of_seen_rows(seen, 4)
    assert said.startswith(f"2 of 4 rows were in the training data of the run of {output}, so its scores are too good ")
    assert said.endswith(f"\n  - {asked}:3\n  - {asked}:4")
    assert said_of_seen_rows({}, 4) == []
