from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config
from veneer.errors import ConfigError
from veneer.training.supposed_steps import SupposedRows, SupposedSteps


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rows": 0}, "rows: must be at least 1, got 0"),
        ({"tokens": 0}, "tokens: must be at least 1"),
        ({"rows": 1.5}, "rows: must be a whole number"),
        ({"rows": -5, "longest": 0}, "longest: must be at least 1, got 0"),
        ({"tokens": 600}, "tokens: an average row has 600, more than the 512 of the longest"),
    ],
)
def test_rows_that_cannot_be_are_not_supposed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SupposedRows(**wrong)


def test_steps_of_supposed_rows_are_cut_by_rows_or_by_tokens(tmp_path: Path) -> None:
    rows = SupposedRows(rows=10, tokens=30, longest=50)
    for setting, in_step, together in (
        ("train.examples_per_step=4", 4, 1), ("train.tokens_per_step=100", 3, 1), ("train.tokens_per_step=100", 1, 2),
        ("train.examples_per_step=64", 10, 1),
    ):  # fmt: skip
        train = run_config(tmp_path, tmp_path / "x.jsonl", tmp_path / "run", setting, "train.epochs=2").train
        steps = SupposedSteps(rows, train, together)
        assert steps.total == 2 * -(-10 // in_step)
        assert steps.longest == 50 * together
        assert steps.batch_shape(10**6).step_tokens == in_step * 30 * together


def test_a_part_of_an_epoch_is_rounded_up_as_in_a_run(tmp_path: Path) -> None:
    settings = ("train.examples_per_step=8", "train.epochs=1.52")
    train = run_config(tmp_path, tmp_path / "x.jsonl", tmp_path / "run", *settings).train
    assert SupposedSteps(SupposedRows(rows=80), train).total == 16
