"""Measures of the task from the answers of a comparison's runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import write_rows
from veneer.comparison.order import RunOutcome
from veneer.comparison.task import check_metrics, task_rows
from veneer.errors import ConfigError
from veneer.evaluation.scoring import RowScore, judge


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def scored(answers: list[str | None], references: list[str | None]) -> RunOutcome:
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        exact, fields = (None, None) if answer is None or reference is None else judge(answer, reference)
        rows.append(RowScore(5.0, 10, None, None if exact is None else float(exact), fields))
    return RunOutcome("lora", 0, {"loss": 9.0}, rows)


def test_answers_are_measured_as_the_rows_call_for(tmp_path: Path) -> None:
    labels = ["blue", "late", "blue", "late", "blue", "late"]
    rows = [chat(f"{number}?", label) for number, label in enumerate(labels)]
    file = write_rows(tmp_path / "eval.jsonl", [*rows[:3], {"text": "nothing is asked"}, *rows[3:]])
    task = task_rows(str(file), None)
    assert task.primary == "accuracy"
    answers: list[str | None] = ["blue", "blue", "blue", None, "late", "what", "late"]
    run = task.measured(scored(answers, [*labels[:3], None, *labels[3:]]), answers)
    assert run.outcome.metrics["accuracy"] == pytest.approx(4 / 6)
    assert run.outcome.metrics["exact"] == pytest.approx(4 / 6)
    assert run.outcome.metrics["loss"] == pytest.approx(0.5)
    assert run.details["confusion"]["labels"] == ["blue", "late"]
    # One row for every row of the file, so that measures of runs are paired with each other and with the losses.
    assert {len(one.counts) for one in run.measures} == {7}


def test_named_metrics_come_first_and_those_of_likelihoods_are_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "eval.jsonl", [chat("sum?", "so #### 4"), chat("sum?", "#### 5")])
    task = task_rows(str(file), check_metrics(["number", "rouge-l"]))
    run = task.measured(scored(["4", "6"], ["so #### 4", "#### 5"]), ["4", "6"])
    assert task.primary == "number"
    assert run.outcome.metrics["number"] == 0.5
    assert "rouge_l" in run.outcome.metrics
    assert check_metrics([]) is None
    with pytest.raises(ConfigError, match="compares the likelihoods of choices"):
        check_metrics(["choice"])
    with pytest.raises(ConfigError, match="jsn"):
        check_metrics(["jsn"])
