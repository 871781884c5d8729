from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.comparison.order import (
    ANSWERS_FILE,
    CHOICES_FILE,
    RESULT_FILE,
    Order,
    RunOutcome,
    read_answers,
    read_choices,
    read_order,
    read_outcome,
    write_choices,
)
from veneer.errors import OutputError
from veneer.evaluation.scoring import RowScore

OUTCOME = RunOutcome(
    "lora", 1, {"loss": 1.5, "exact": 0.25}, [RowScore(12.5, 10, None, True, 0.5), RowScore(7.0, 4, None, None, None)],
    steps=3, learning_rate=0.01, trainable=5, seconds=11.0, tokens=400, peak_memory_mb=100.0, bytes_on_disk=2048,
)  # fmt: skip


@pytest.mark.parametrize("limit", [None, 8])
def test_an_order_is_read_as_it_was_written(limit: int | None, tmp_path: Path) -> None:
    config = run_config(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "runs" / "lora-1", "train.seed=1")
    order = Order("lora", 1, config, "eval.jsonl", limit)
    assert order.folder == tmp_path / "runs" / "lora-1"
    assert read_order(order.write()) == order


def test_an_outcome_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
    OUTCOME.write(tmp_path, ["a", None])
    assert read_outcome(tmp_path) == OUTCOME
    assert read_answers(tmp_path, 2) == ["a", None]


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{}]}', '{"rows": [], "method": "lora"}'])
def test_a_damaged_result_is_named_with_the_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(OutputError, match=f"delete the folder {tmp_path} to make this run again"):
        read_outcome(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "null", '["a"]', None])
def test_damaged_answers_and_choices_are_named_with_the_remedy(text: str | None, tmp_path: Path) -> None:
    write_choices(tmp_path, [[1.0], [2.0]])
    assert read_choices(tmp_path, 2) == [[1.0], [2.0]]
    if text is not None:
        for name in (ANSWERS_FILE, CHOICES_FILE):
            (tmp_path / name).write_text(text)
        with pytest.raises(OutputError, match=f"delete the folder {tmp_path} to make this run again"):
            read_choices(tmp_path, 2)
    with pytest.raises(OutputError, match=f"delete the folder {tmp_path} to make this run again"):
        read_answers(tmp_path, 2)
