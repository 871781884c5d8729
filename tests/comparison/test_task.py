"""Measures of the task from the answers of a comparison's runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import write_rows
from veneer.comparison.order import RunOutcome
from veneer.comparison.task import check_metrics, task_rows
from veneer.errors import ConfigError, DataError
from veneer.evaluation.scoring import RowScore, compare_answer


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def scored(answers: list[str | None], references: list[str | None]) -> RunOutcome:
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        exact, fields = (None, None) if answer is None or reference is None else compare_answer(answer, reference)
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


def test_named_metrics_come_first(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "eval.jsonl", [chat("sum?", "so #### 4"), chat("sum?", "#### 5")])
    task = task_rows(str(file), check_metrics(["number", "rouge-l"]))
    run = task.measured(scored(["4", "6"], ["so #### 4", "#### 5"]), ["4", "6"])
    assert task.primary == "number"
    assert run.outcome.metrics["number"] == 0.5
    assert "rouge_l" in run.outcome.metrics
    assert check_metrics([]) is None
    with pytest.raises(ConfigError, match="jsn"):
        check_metrics(["jsn"])


def test_the_measure_of_an_own_metric_is_known_by_what_it_gave(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "eval.jsonl", [chat("sum?", "4"), chat("sum?", "5")])
    (tmp_path / "own.py").write_text("def short(answer, reference, row):\n    return {'brevity': 1 / len(answer)}\n")
    task = task_rows(str(file), check_metrics([f"{tmp_path / 'own.py'}:short", "rouge-l"]))
    run = task.measured(scored(["4", "55"], ["4", "5"]), ["4", "55"])
    assert task.primary is None
    assert run.first == "brevity"
    assert run.outcome.metrics["brevity"] == 0.75


def test_choices_are_compared_where_rows_list_them_or_their_metric_is_named(tmp_path: Path) -> None:
    listed = [{"prompt": "?", "completion": answer, "choices": ["red", "blue"]} for answer in ("red", "blue", "blue")]
    task = task_rows(str(write_rows(tmp_path / "listed.jsonl", listed)), None)
    assert task.primary == "choice_accuracy"
    answers: list[str | None] = ["red", "red", "red"]
    run = task.measured(scored(answers, ["red", "blue", "blue"]), answers, [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0]])
    assert run.outcome.metrics["choice_accuracy"] == pytest.approx(2 / 3)
    assert "calibration" in run.details
    # Without a list, the answers of all rows are the choices.
    plain = [chat(f"{number}?", answer) for number, answer in enumerate(["red", "blue", "green"])]
    named = task_rows(str(write_rows(tmp_path / "plain.jsonl", plain)), check_metrics(["choice"]))
    assert [one.choices for one in named.choices] == [("red", "blue", "green")] * 3
    many = write_rows(tmp_path / "many.jsonl", [chat(f"{number}?", f"{number}!") for number in range(100)])
    with pytest.raises(DataError, match=r"100 different answers.*'choices'"):
        task_rows(str(many), check_metrics(["choice"]))
    broken = write_rows(tmp_path / "broken.jsonl", [{**listed[0], "choices": ["blue", "green"]}])
    with pytest.raises(DataError, match="1 of 1 rows have no usable choices"):
        task_rows(str(broken), check_metrics(["choice"]))
