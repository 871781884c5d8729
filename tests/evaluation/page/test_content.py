from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from veneer.evaluation.forgetting import SuiteResult
from veneer.evaluation.page import content as page_content
from veneer.evaluation.page.content import content
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.events import ignore


def sample(number: int, exact: tuple[float, float], losses: tuple[float, float]) -> Sample:
    return Sample(f"f:{number}", "q", "yes it is", "no", "yes", losses[0], losses[1], exact[0], exact[1])


SAMPLES = [
    sample(1, (1, 1), (1.0, 0.5)), sample(2, (1, 0), (1.0, 3.0)), sample(3, (0, 1), (2.0, 1.0)),
    sample(4, (0, 0), (1.0, 1.5)), sample(5, (0, 1), (2.0, 0.1)),
]  # fmt: skip


def report(samples: list[Sample]) -> Report:
    metric = Metric("exact", 0.5, 0.4, 0.6)
    found = Comparison("exact", 0.4, 0.6, 0.2, math.nan, 0.3)
    return Report(rows=len(samples), base=[metric], adapter=[metric], comparison=[found], samples=samples)


def test_rows_are_ranked_by_what_the_adapter_changed() -> None:
    values = content(report(SAMPLES), "t", ignore)
    assert [row["where"] for row in values["worst"]] == ["f:2", "f:4"]
    assert [row["where"] for row in values["best"]] == ["f:5", "f:3", "f:1"]
    assert values["same"] == []
    assert values["answered"] == 5
    alone = [Sample(f"f:{i}", "q", "a", "b", None, loss, None, 0.0) for i, loss in enumerate((1.0, 3.0, 2.0))]
    assert [row["where"] for row in content(report(alone), "t", ignore)["worst"]] == ["f:1", "f:2"]


def test_no_row_that_became_better_or_stayed_the_same_is_called_worse() -> None:
    values = content(report([sample(1, (0, 0), (2.0, 1.0)), sample(2, (1, 1), (2.0, 2.0))]), "t", ignore)
    assert {key: [row["where"] for row in values[key]] for key in ("worst", "best", "same")} == {
        "worst": [], "best": ["f:1"], "same": ["f:2"]
    }  # fmt: skip


def test_no_row_is_shown_twice_and_a_page_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_content, "ROWS_SHOWN", 2)
    monkeypatch.setattr(page_content, "LONGEST", 5)
    values = content(report(SAMPLES), "t", ignore)
    shown = [row["where"] for row in values["worst"] + values["best"]]
    assert len(shown) == len(set(shown)) == 4
    assert "".join(piece for piece, _ in values["worst"][0]["reference"]) == "yes i"
    assert values["report"]["samples"] == []


def test_values_are_plain_json_and_lengths_are_counted() -> None:
    values = content(report(SAMPLES), "t", ignore)
    assert json.loads(json.dumps(values, allow_nan=False))["report"]["comparison"][0]["low"] is None
    names = [one["name"].removeprefix("characters of the ") for one in values["histograms"]]
    assert names == ["reference", "base's answer", "adapter's answer"]
    assert [sum(one["counts"]) for one in values["histograms"]] == [5, 5, 5]
    assert content(report([]), "t", ignore)["histograms"] == []


def test_the_page_is_told_of_which_measures_less_is_better() -> None:
    names = ("loss", "acc", "perplexity,strip", "brier")
    loss, *others = (Comparison(name, 1.0, 1.0, 0.0, 0.0, 0.0) for name in names)
    suite = SuiteResult("s", 1, "", others[0], others[1:])
    values = content(replace(report(SAMPLES), comparison=[loss], suites=[suite]), "t", ignore)
    assert values["lower"] == ["brier", "loss", "perplexity,strip"]
