"""OpenAI's graders become rewards that say what they say, and what no reward does is refused by name."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from veneer.errors import ConfigError
from veneer.http_server.errors import ApiError
from veneer.rewards.base import AnswerToJudge
from veneer.rewards.metric_reward import MetricReward
from veneer.rewards.python_reward import PythonReward
from veneer.studio.graders import WRAPPED, rewards_of, weights_of, wrapped

CHECK = {"type": "string_check", "name": "right", "input": "{{sample.output_text}}", "reference": "{{ item.answer }}",
         "operation": "eq"}  # fmt: skip
SIMILAR = {"type": "text_similarity", "name": "near", "input": "{{ sample.output_text }}",
           "reference": "{{item.answer}}", "evaluation_metric": "rouge_l"}  # fmt: skip
SCORE = {"type": "score_model", "name": "liked", "model": "judge",
         "input": [{"role": "user", "content": "{{sample.output_text}}"}]}  # fmt: skip
PYTHON = {"type": "python", "name": "own", "source": "def grade(sample, item):\n    return 1.0\n"}


def answer(text: str, number: int = 0, **columns: Any) -> AnswerToJudge:
    return AnswerToJudge(where="f:1", number=number, prompt="?", text=text, columns=columns)


def test_each_grader_is_one_reward() -> None:
    assert rewards_of(CHECK) == [{"metric": "equal", "column": "answer", "name": "right"}]
    assert rewards_of(SIMILAR) == [{"metric": "rouge-l", "column": "answer", "name": "near"}]
    assert rewards_of(SCORE) == [{"adapter": "judge", "name": "liked"}]
    assert rewards_of(PYTHON) == [{"source": PYTHON["source"], "name": "own"}]


@pytest.mark.parametrize(
    ("operation", "expected"), [("eq", [1, 0, 0]), ("ne", [0, 1, 1]), ("like", [1, 1, 0]), ("ilike", [1, 1, 1])]
)
def test_a_string_check_says_what_openai_says_of_its_operations(operation: str, expected: list[int]) -> None:
    (reward,) = rewards_of({**CHECK, "operation": operation})
    judged = MetricReward(reward["metric"], reward["column"])
    answers = [answer(text, answer="Blue") for text in ("Blue", "It is Blue.", "BLUE")]
    assert judged.values(answers) == [float(one) for one in expected]


def test_a_multi_is_a_weighted_sum_of_its_graders() -> None:
    found = rewards_of({"type": "multi", "name": "all", "graders": {"a": CHECK, "b": SIMILAR},
                        "calculate_output": "0.75 * a + b / 4"})  # fmt: skip
    assert [(one["name"], one["weight"]) for one in found] == [("a", 0.75), ("b", 0.25)]
    (alone,) = rewards_of({"type": "multi", "graders": CHECK, "calculate_output": "2 * right"})
    assert alone == {"metric": "equal", "column": "answer", "name": "right", "weight": 2.0}


@pytest.mark.parametrize(
    "formula",
    [
        "a + b",
        "(a + b) / 2",
        "0.7*a - 0.1 * b",
        "-(a - 3 * (b - 2 * c)) / 7",
        "2 * (3 * a) + b * 4 + c / 5",
        "a - a + b",
    ],
)
def test_weights_are_those_of_the_formula(formula: str) -> None:
    source, weights = random.Random(formula), weights_of(formula, {"a", "b", "c"})
    for _ in range(20):
        values = {name: source.uniform(-5, 5) for name in "abc"}
        expected = eval(formula, {}, values)
        assert sum(weights.get(name, 0.0) * value for name, value in values.items()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "formula",
    ["a * b", "max(a, b)", "a ** 2", "a + 1", "1 / a", "a if b else c", "d + a", "a / 0", "", "a +", "True * a",
     "__import__('os').system('true')", "(" * 400 + "a" + ")" * 400, 7, "a" * 1_000,
     "1" + "0" * 400 + " * a", "1e999 * a", "a / 1e999", "1e200 * a * 1e200", "1e999 * a - 1e999 * a"],
)  # fmt: skip
def test_other_formulas_are_refused_and_never_run(formula: object) -> None:
    with pytest.raises(ApiError, match="calculate_output"):
        weights_of(formula, {"a", "b", "c"})


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        (None, "a grader must be an object"),
        ({**CHECK, "operation": "near"}, "operation 'near' is unknown"),
        ({**CHECK, "reference": "42"}, "reference {{item.COLUMN}}"),
        ({**CHECK, "reference": "{{item.answer.first}}"}, "reference {{item.COLUMN}}"),
        ({**CHECK, "input": "{{sample.output_json.x}}"}, "input must be"),
        ({**CHECK, "input": "so: {{sample.output_text}}"}, "nothing around them"),
        ({**CHECK, "pass_threshold": 1}, "got pass_threshold"),
        ({**SIMILAR, "evaluation_metric": "meteor"}, "'meteor' is not supported"),
        ({**SCORE, "range": [0, 10]}, "got range"),
        ({**SCORE, "input": [{"role": "system", "content": "Judge."}, *SCORE["input"]]}, "follows no instructions"),
        ({**PYTHON, "image_tag": "2025-05-08"}, "got image_tag"),
        ({**PYTHON, "source": ""}, "source must be Python code"),
        ({"type": "label_model", "name": "x"}, "'label_model' is not supported"),
        ({"type": "multi", "graders": {}, "calculate_output": "a"}, "must map names to graders"),
        ({"type": "multi", "graders": {"a": CHECK, "b": CHECK}, "calculate_output": "a"}, "does not name b"),
        ({"type": "multi", "graders": {"a": {"type": "multi"}}, "calculate_output": "a"}, "'multi' is not supported"),
        ({**CHECK, "name": 3}, "name must be a string"),
    ],
)  # fmt: skip
def test_what_no_reward_does_is_refused_by_name(grader: Any, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        rewards_of(grader)
    assert said in refused.value.message
    assert refused.value.status == 400


def test_a_python_grader_is_called_as_openais_in_a_process_of_its_own(tmp_path: Path) -> None:
    source = (
        "import os\n\n\ndef grade(sample, item):\n"
        "    assert sample['choices'][0]['message']['content'] == sample['output_text']\n"
        "    if sample['output_json'] is None:\n        return 0.0\n"
        "    return 2.0 * (sample['output_json']['sum'] == item['answer']) + (os.getpid() != item['pid'])\n"
    )
    file = tmp_path / "grader.py"
    file.write_text(wrapped(source))
    reward = PythonReward(f"{file}:{WRAPPED}", seconds=30)
    try:
        texts = ['{"sum": 3}', '{"sum": 4}', "three"]
        found = reward.values([answer(text, place, answer=3, pid=os.getpid()) for place, text in enumerate(texts)])
    finally:
        reward.close()
    assert found == [3.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def grade(sample, item): return 1 +", "source is not valid Python: line 1: invalid syntax"),
        ("x = 1\ndef grade(sample, item)\n    return 1", "source is not valid Python: line 2: expected ':'"),
        ("def grade(sample, item): return '\0'", "source is not valid Python"),
        ("def grad(sample, item): return grade", "source has no function grade(sample, item)"),
        ("class Own:\n    def grade(self, sample): return 1", "source has no function grade(sample, item)"),
        ("def other():\n    def grade(sample, item): return 1", "source has no function grade(sample, item)"),
        ("print([grade for grade in range(3)])", "source has no function grade(sample, item)"),
    ],
)
def test_a_source_without_a_grade_that_python_can_read_is_refused(source: str, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        wrapped(source)
    assert said in refused.value.message
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "from statistics import mean as grade",
        "grade = max",
        "try:\n    from absent_library import grade\nexcept ImportError:\n    def grade(sample, item): return 1.0",
        f"total = {' + '.join(['1'] * 2_000)}\ndef grade(sample, item): return total",
    ],
)
def test_a_grade_may_come_from_anywhere(source: str) -> None:
    assert wrapped(source).startswith(source)


def test_a_grade_that_is_not_there_when_the_source_has_run_ends_the_loading(tmp_path: Path) -> None:
    file = tmp_path / "grader.py"
    file.write_text(wrapped("if not __name__:\n    def grade(sample, item): return 1.0\n"))
    with pytest.raises(ConfigError, match="name 'grade' is not defined"):
        PythonReward(f"{file}:{WRAPPED}", seconds=30)
