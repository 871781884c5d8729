from __future__ import annotations

from pathlib import Path

import pytest

from veneer.errors import ConfigError
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.choose import (
    METRICS,
    PRIMARY,
    fitting_metrics,
    named_metrics,
    said_of_missing,
    try_on_references,
)


def rows(references: list[str]) -> list[AnsweredRow]:
    return [AnsweredRow(f"f:{i}", "", reference, "") for i, reference in enumerate(references)]


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        (['{"a": 1}', ' {"a": 2}'], "json"), (["so\n#### 3", "#### 4"], "number"),
        (["yes", "no", "no"] * 4, "classification"), ([f"text {i}" for i in range(9)], "rouge-l"),
        (["yes"] * 9, "rouge-l"), (["long " * 20, "short"] * 6, "rouge-l"), (['{"a": 1}', "text"], "rouge-l"),
        (["\\boxed{72}", "so \\boxed{3\\%}"], "number"), (["\\boxed{72}", "\\boxed{\\frac{1}{2}}"], "rouge-l"),
        (["\\boxed{x}", "\\boxed{y}"], "rouge-l"), (["#### Step\nadd 3", "#### Result\n5"], "rouge-l"),
    ],
)  # fmt: skip
def test_the_references_say_which_metric_fits(references: list[str], metric: str) -> None:
    found = fitting_metrics(rows(references), choices=False)
    assert found.answers == (METRICS[metric],)
    assert not found.choice


def test_rows_that_list_choices_are_compared_by_likelihood() -> None:
    found = fitting_metrics(rows(["a", "b"]), choices=True)
    assert (found.answers, found.choice, found.primary) == ((), True, "choice_accuracy")
    assert fitting_metrics([], choices=False).answers == ()


def test_a_named_metric_without_a_measure_is_not_dropped_in_silence() -> None:
    found = said_of_missing(["exact", "json", "number", "own.py:f"], ["exact", "loss", "number"])
    assert found == ["--metric json: no row has the measure json_f1, so the results have none"]


def test_every_metric_has_its_primary_measure() -> None:
    for name in METRICS:
        assert named_metrics([name]).primary == PRIMARY[name]
    assert named_metrics(["loss", "json"]).primary == "loss"
    assert named_metrics(["choice"]).choice
    assert named_metrics([]).primary is None


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'rouge-l'.*possible are exact, loss"):
        named_metrics(["rougel"])


def test_a_declared_metric_is_tried_on_all_references_and_others_on_one(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def once(answer, reference, row):\n    assert answer == reference == 'x', answer\n    return 1.0\n"
    )
    own = f"{tmp_path / 'own.py'}:once"
    try_on_references(rows(["x", "#### 3"]), named_metrics(["number", own]))
    with pytest.raises(ConfigError, match="these rows have no number"):
        try_on_references(rows(["x", "y"]), named_metrics(["number", own]))
    with pytest.raises(ConfigError, match="AssertionError: y"):
        try_on_references(rows(["y", "x"]), named_metrics([own, "number"]))
    try_on_references(rows(["x", "y"]), named_metrics(["exact", "number"]))
    try_on_references([], named_metrics([own]))


def test_measures_of_one_name_are_refused_before_anything_is_answered(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            "def score(answer, reference, row): return 1.0\ndef exact(answer, reference, row): return 1.0\n"
        )
    same = [f"{tmp_path / name}.py:score" for name in ("a", "b")]
    with pytest.raises(ConfigError, match="two measures are named score"):
        try_on_references(rows(["x"]), named_metrics(same))
    with pytest.raises(ConfigError, match="two measures are named exact"):
        try_on_references(rows(["x"]), named_metrics([f"{tmp_path / 'a.py'}:exact"]))


def test_the_rows_that_count_for_the_declared_measure_are_counted() -> None:
    assert try_on_references(rows(["#### 1", "#### 2", "x"]), named_metrics(["number"])) == 2
    assert try_on_references(rows(["x", "y"]), named_metrics(["exact"])) == 2
    with pytest.raises(ConfigError, match="these rows have no exact"):
        try_on_references([], named_metrics(["exact"]))
