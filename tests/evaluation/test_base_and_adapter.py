"""Base and adapter are scored on the same rows, and what each of them has stands in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import rows as conversations
from helpers.models.tiny import run_config, write_rows
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.records import read_records
from veneer.enums import Dtype
from veneer.evaluation.base_and_adapter import evaluate_rows, put_together
from veneer.evaluation.rows import ModelScores, prepare
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics.measures import mean_of, scale_of
from veneer.evaluation.statistics.shares import wilson
from veneer.events import ignore
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


def test_the_adapter_is_on_again_after_an_evaluation(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3")).output
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    prepared = prepare(assistant, read_records(tiny_data)[:3])
    first = evaluate_rows(assistant, prepared, emit=ignore)
    second = evaluate_rows(assistant, prepared, emit=ignore)
    assert (first.base, first.adapter, first.comparison) == (second.base, second.adapter, second.comparison)
    assert first.base != first.adapter
    assert assistant.adapter is not None
    assert all(layer.enabled for layer in assistant.adapter.outermost.values())


def test_a_base_alone_has_measures_and_no_comparison(tiny_model: Path, tiny_data: Path) -> None:
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    report = evaluate_rows(assistant, prepare(assistant, read_records(tiny_data)[:3], max_new_tokens=2), emit=ignore)
    assert (report.rows, report.adapter, report.comparison) == (3, [], [])
    assert [sample.adapter for sample in report.samples] == [None] * 3
    assert report.primary == report.base[0].name
    assert report.warnings[0].startswith("3 rows say little")


def test_rows_beyond_the_context_are_named(tiny_model: Path, tmp_path: Path) -> None:
    """Their losses were computed at positions that no model has learned, without a word."""
    rows = conversations(3)
    rows[1]["messages"][0]["content"] = "late " * 400
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    prepared = prepare(assistant, read_records(write_rows(tmp_path / "rows.jsonl", rows)), max_new_tokens=2)
    warnings = evaluate_rows(assistant, prepared, emit=ignore).warnings
    assert warnings[0].startswith("1 row of 3 longer than the model's context of 512 tokens")
    assert "rows.jsonl:2" in warnings[0]


def test_scores_are_of_the_scale_that_holds_those_of_all_models(tiny_model: Path, tiny_data: Path) -> None:
    prepared = prepare(open_assistant(str(tiny_model), compute=FLOAT32), read_records(tiny_data)[:6])
    scores = [RowScore(1.0, 2, "a", 0.0, None)] * 6

    def rated(*values: float) -> ModelScores:
        found = mean_of("rating", values, scale=scale_of(values))
        return ModelScores(scores, [one for one in (found,) if one is not None])

    (alone,) = put_together(prepared, rated(*[1.0] * 6), [], 0.0).base
    assert (alone.low, alone.high) == tuple(map(float, wilson(6, 6)))
    report = put_together(prepared, rated(*[1.0] * 6), [rated(7, 8, 9, 7, 8, 9)], 0.0)
    assert (report.base[0].low, report.base[0].high) == pytest.approx([10 * float(end) for end in wilson(0.6, 6)])
    assert report.adapter[0].interval == "bootstrap over rows"
