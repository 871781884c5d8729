"""The measures of samples are those that lm-evaluation-harness computes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from veneer.evaluation.harness_measures import measures_of_samples
from veneer.evaluation.statistics.compare import contrast


def named(name: str) -> Any:
    def aggregation(values: Any) -> float:
        return 0.0

    aggregation.__name__ = name
    return aggregation


class FakeTask:
    def __init__(self, name: str, aggregations: dict[str, str], lower: tuple[str, ...] = ()) -> None:
        self.task_name, self._aggregations, self._lower = name, aggregations, lower

    def aggregation(self) -> dict[str, Any]:
        return {metric: named(form) for metric, form in self._aggregations.items()}

    def higher_is_better(self) -> dict[str, bool]:
        return {metric: metric not in self._lower for metric in self._aggregations}


def sample(number: int, filter_name: str = "none", **values: Any) -> dict[str, Any]:
    return {"doc_id": number, "filter": filter_name, "metrics": list(values), **values}


def test_measures_are_those_of_the_harness_over_the_rows_of_all_tasks() -> None:
    first = FakeTask("a", {"acc": "mean", "bits_per_byte": "bits_per_byte", "word_perplexity": "weighted_perplexity"})
    forms = {"acc": "mean", "bleu": "bleu", "ter": "mean", "perplexity": "perplexity", "middle": "median",
             "brier_score": "brier_score"}  # fmt: skip
    second = FakeTask("b", forms, ("ter", "brier_score"))
    samples = {
        "a": [
            sample(0, acc=1.0, bits_per_byte=(-3.0, 10), word_perplexity=(-3.0, 2)),
            sample(1, acc=0.0, bits_per_byte=(-1.0, 5), word_perplexity=(-1.0, 1)),
        ],
        "b": [
            sample(0, acc=1, bleu=(["x", "z"], "y"), ter=3.0, perplexity=-2.0, middle=1.0, brier_score=(1, [0.2, 0.8])),
            sample(0, "strict", acc=0.0),
        ],
    }
    results = {"b": {"ter,none": 3.25, "bleu,none": 0.5}}
    measures, left_out = measures_of_samples([first, second], samples, results)
    found = {one.name: one for one in measures}
    assert list(found) == ["acc", "bits_per_byte", "word_perplexity", "perplexity", "brier_score", "acc,strict"]
    assert found["brier_score"].total == pytest.approx(0.08)
    assert found["acc"].total == pytest.approx(2 / 3)
    assert found["acc"].binary
    assert found["bits_per_byte"].total == pytest.approx(4.0 / 15 / math.log(2))
    assert found["word_perplexity"].total == pytest.approx(math.exp(4.0 / 3))
    assert found["perplexity"].total == pytest.approx(math.exp(2.0))
    assert found["acc,strict"].counts.shape == (3, 2)
    assert left_out == [
        "ter: 3.25 (lower is better, and veneer does not know this measure)",
        "middle: no number (aggregated by median)", "bleu: 0.5 (aggregated by bleu)",
    ]  # fmt: skip


def test_less_is_better_of_a_perplexity_whatever_filter_it_went_through() -> None:
    task = FakeTask("a", {"perplexity": "perplexity"}, ("perplexity",))
    (base,), (adapter,) = (
        measures_of_samples([task], {"a": [sample(n, "strip", perplexity=value) for n in range(9)]}, {})[0]
        for value in (-2.0, -1.0)
    )
    (found,) = contrast([base], [[adapter]])
    assert found.name == "perplexity,strip"
    assert found.gain[0] == pytest.approx(math.exp(2) - math.exp(1))
