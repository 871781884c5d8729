from __future__ import annotations

from pathlib import Path

import pytest

from tiny import run_config
from veneer.comparison.order import RESULT_FILE, Order, RunOutcome, read_answers, read_order, read_outcome
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
    assert read_answers(tmp_path) == ["a", None]


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{}]}', '{"rows": [], "method": "lora"}'])
def test_a_damaged_result_is_named_with_the_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(OutputError, match="delete it to run this again"):
        read_outcome(tmp_path)
