"""The rows of a comparison of preferences; those of other comparisons are in `test_run.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from preference_rows import pairs
from tiny import write_rows
from veneer.comparison.rows import prepare_rows, trained_on
from veneer.comparison.settings import CompareConfig
from veneer.enums import Method, ObjectiveName
from veneer.errors import OutputError


def test_pairs_are_split_once_for_imitation_preference_and_scores(tiny_model: Path, tmp_path: Path) -> None:
    content = pairs(20)
    asked = CompareConfig(
        model=str(tiny_model), data=str(write_rows(tmp_path / "pairs.jsonl", content)), output=str(tmp_path / "out"),
        methods=(Method.LORA,), held_out=0.3, limit=4, preference=ObjectiveName.DPO,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    made = prepare_rows(asked, tmp_path / "out")
    assert trained_on(made) == {"data.file": str(tmp_path / "out" / "train.jsonl")}
    assert made.pairs_file is not None
    imitated, preferred, scored = (
        [json.loads(line) for line in Path(file).read_text().splitlines()]
        for file in (made.train_files[0], made.pairs_file, made.eval_file)
    )
    assert (made.training, made.evaluation) == (len(preferred), len(scored)) == (14, 4)
    assert [(row["prompt"], row["completion"]) for row in imitated] == [
        (row["prompt"], row["chosen"]) for row in preferred
    ]
    asked_in_training = {row["prompt"] for row in preferred}
    assert not asked_in_training & {row["prompt"] for row in scored}
    assert all(row["completion"] == row["choices"][0] for row in scored)
    (tmp_path / "out" / "runs" / "base").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "base" / "events.jsonl").touch()
    with pytest.raises(OutputError, match="preference: dpo there, orpo now"):
        prepare_rows(replace(asked, preference=ObjectiveName.ORPO), tmp_path / "out")
