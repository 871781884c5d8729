"""Metrics as rewards: of each answer by itself, with the reference of its row."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.errors import ConfigError
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.metric_reward import MetricReward


def answer(text: str, **columns: Any) -> AnswerToJudge:
    return AnswerToJudge(where="f:1", prompt="?", text=text, columns=columns)


@pytest.mark.parametrize(
    ("metric", "text", "reference", "expected"),
    [
        ("exact", " 12 ", "12", 1.0),
        ("exact", "13", "12", 0.0),
        ("exact", '{"b": 1, "a": 2}', '{"a": 2, "b": 1}', 1.0),
        ("number", "so it is 1,200.", "#### 1200", 1.0),
        ("number", "no idea", "no number", None),
        ("number", "so \\boxed{\\frac{3}{2}}", "\\boxed{2}", 0.0),
        ("number", "so \\boxed{\\frac{3}{2}}", "\\boxed{\\frac{1}{2}}", None),
        ("json", '{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5),
        ("json", "no JSON", '{"a": 1}', 0.0),
        ("json", '{"a": 1}', "no JSON", None),
        ("rouge-l", "a b", "a b c d", 2 / 3),
        ("chrf", "a blue boat", "a blue boat", 1.0),
        ("equal", "12", "12", 1.0),
        ("equal", " 12", "12", 0.0),
        ("not-equal", " 12", "12", 1.0),
        ("contains", "it is Blue.", "Blue", 1.0),
        ("contains", "it is Blue.", "blue", 0.0),
        ("contains-any-case", "it is Blue.", "bLUE", 1.0),
        ("contains-any-case", "red", "blue", 0.0),
    ],
)
def test_a_metric_judges_a_single_answer(metric: str, text: str, reference: str, expected: float | None) -> None:
    (found,) = MetricReward(metric).values([answer(text, reference=reference)])
    assert found == pytest.approx(expected)


def test_the_reference_is_the_named_column_or_the_first_there_is() -> None:
    row = answer("12", answer="13", solution="12")
    assert MetricReward("exact").values([row]) == [0.0]
    assert MetricReward("exact", "solution").values([row]) == [1.0]
    turns = answer("12", completion=[{"role": "assistant", "content": "12"}])
    assert MetricReward("exact").values([turns]) == [1.0]
    assert MetricReward("exact").values([answer("12", answer=12)]) == [1.0]
    with pytest.raises(RewardFailed, match="its row holds no reference under level"):
        MetricReward("exact", "level").values([row])


def test_rows_without_a_reference_are_told_before_any_answer_is_judged() -> None:
    rows: list[dict[str, Any]] = [{"answer": "12"}, {"answer": None}, {"level": 1}, {"answer": float("nan")}]
    absent = "its row holds no reference under {}; null counts as absent"
    any_name = absent.format("reference or completion or answer or solution or ground_truth or target")
    assert MetricReward("exact").refusals(rows) == [None, any_name, any_name, None]
    level = absent.format("level")
    assert MetricReward("exact", "level").refusals(rows) == [level, level, None, level]
    (refusal,) = MetricReward("json").refusals([{"answer": [float("nan")]}])
    assert refusal is not None
    assert "cannot be written as JSON" in refusal


def test_a_reference_that_is_an_object_or_a_list_is_the_json_of_it() -> None:
    text = '{"count": 3, "word": null, "late": true}'
    row = answer(text, answer={"count": 3, "word": None, "late": True}, parts=[{"a": 1}, 2])
    assert MetricReward("json").values([row]) == [1.0]
    assert MetricReward("exact").values([row]) == [1.0]
    assert MetricReward("contains", "parts").values([answer('it is [{"a": 1}, 2].', parts=[{"a": 1}, 2])]) == [1.0]
    assert MetricReward("equal", "parts").values([answer('[{"a": 1}]', parts=[{"a": 1}])]) == [1.0]
    assert MetricReward("exact", "parts").values([answer('[{"a":1},2]', parts=[{"a": 1}, 2])]) == [1.0]
    assert MetricReward("exact", "parts").values([answer("[1, 2]", parts=[2, 1])]) == [0.0]
    for text, said in (("true", True), ("false", False)):
        assert MetricReward("exact").values([answer(text, answer=said)]) == [1.0]
        assert MetricReward("equal").values([answer(text, answer=not said)]) == [0.0]
    with pytest.raises(RewardFailed, match="cannot be written as JSON"):
        MetricReward("json", "parts").values([answer("1", parts=[float("nan")])])


def test_a_metric_that_judges_no_single_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'classification' is unknown"):
        MetricReward("classification")
    with pytest.raises(ConfigError, match="did you mean 'number'"):
        MetricReward("nubmer")
