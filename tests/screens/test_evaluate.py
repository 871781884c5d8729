from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.processes.consoles import recorded
from veneer.evaluation.judge.verdicts import JudgedShare, JudgeResult
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.screens.evaluate import (
    comparison_table,
    detail_tables,
    judge_table,
    metric_table,
    report_table,
    sample_table,
)


def compared(name: str, low: float, high: float) -> Comparison:
    return Comparison(name, 0.5, 0.75, 0.25, low, high)


@pytest.mark.parametrize(
    ("name", "low", "high", "colour"),
    [
        ("exact", 0.1, 0.3, "green"), ("exact", -0.3, -0.1, "red"), ("exact", -0.1, 0.1, "yellow"),
        ("loss", 0.1, 0.3, "red"), ("loss", -0.3, -0.1, "green"), ("perplexity", -0.1, 0.1, "yellow"),
        ("loss", 0.0, 0.3, "yellow"),
    ],
)  # fmt: skip
def test_better_is_green_worse_is_red_and_unknown_is_yellow(name: str, low: float, high: float, colour: str) -> None:
    cell = next(iter(comparison_table("t", [compared(name, low, high)]).columns[3].cells))
    assert cell.style == colour  # type: ignore[union-attr]


def text_of(table: object) -> str:
    console = recorded()
    console.print(table)
    return console.export_text()


def test_labels_and_fields_in_brackets_are_text() -> None:
    labels = ["[spam]", "[/ham]"]
    details = {"confusion": {"labels": labels, "counts": [[1, 0, 0], [0, 1, 0]]}}
    report = Report(rows=2, base=[], details={"base": details})
    (table,) = detail_tables(report)
    text = text_of(table)
    assert text.count("[spam]") == text.count("[/ham]") == 2


def test_a_comparison_shows_shares_in_percent_and_points() -> None:
    text = text_of(comparison_table("rows [/x].jsonl", [compared("exact", 0.1, 0.3), compared("loss", -0.1, 0.3)]))
    assert "rows [/x].jsonl" in text
    lines = text.splitlines()
    exact = next(line for line in lines if "exact" in line)
    loss = next(line for line in lines if "loss" in line)
    assert [part in exact for part in ("50.0 %", "75.0 %", "+25.0", "+10.0 to +30.0")] == [True] * 4
    assert [part in loss for part in ("0.500", "0.750", "+0.250", "-0.100 to +0.300")] == [True] * 4


def test_a_report_of_one_model_has_no_difference() -> None:
    metric = Metric("exact", 0.5, 0.4, 0.6)
    assert "difference" not in text_of(report_table("d", Report(rows=7, base=[metric])))
    text = text_of(
        report_table("d", Report(rows=7, base=[metric], adapter=[metric], comparison=[compared("exact", 0, 0)]))
    )
    assert "difference" in text
    assert "d (7 rows)" in text
    assert "50.0 %" in text_of(metric_table("d", [metric]))


@pytest.mark.parametrize("kappa", [0.2, None])
def test_the_judges_agreement_with_people_has_its_kappa(kappa: float | None) -> None:
    share = JudgedShare(0.5, 0.4, 0.6, 20)
    result = JudgeResult("m", share, 8, 4, 8, share, share, share, agreement=share, kappa=kappa)
    assert ("Cohen's kappa of the agreement with people: 0.20" in text_of(judge_table(result))) is (kappa is not None)


def test_a_p_of_0_is_shown_as_one_below_all_that_can_be_told() -> None:
    rows = [replace(compared("exact", 0, 1), p=0.0), replace(compared("loss", 0, 1), p=0.0, holm=0.0)]
    text = text_of(report_table("d", Report(rows=7, base=[], comparison=rows)))
    assert "primary measure): exact < 1e-12, loss < 1e-12" in " ".join(text.split())


def test_samples_show_text_as_it_is() -> None:
    samples = [Sample("f:1", "[red]ask[/red]", "yes", " no [/] ", " yes ")]
    text = text_of(sample_table("Samples", samples))
    assert "[red]ask[/red]" in text
    assert "no [/]" in text
    assert "adapter" in text
    assert "adapter" not in text_of(sample_table("Samples", [Sample("f:1", "q", "r", "b", None)]))


def test_an_answer_is_green_where_the_evaluation_calls_it_exact() -> None:
    spaced = [Sample("f:1", "q", '{"a": 1}', "b", '{"a":1}', adapter_exact=exact) for exact in (1.0, 0.0)]
    cells = list(sample_table("Samples", spaced).columns[1].cells)
    assert [cell.style for cell in (cells[2], cells[6])] == ["green", "yellow"]  # type: ignore[union-attr]
