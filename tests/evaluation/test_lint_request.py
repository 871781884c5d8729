from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import write_rows
from veneer.data.lint.run import LintOptions
from veneer.enums import Column, ObjectiveName
from veneer.errors import ConfigError
from veneer.evaluation.lint_request import LintRequest, run_lint
from veneer.events import ignore


def test_a_request_is_carried_out_with_everything_that_it_names(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "reference": "4"}] * 2
    train, held = (write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("train", "held"))
    report = run_lint(
        LintRequest(
            data=str(train),
            model=tiny_model,
            eval_data=str(held),
            max_length=2,
            columns={Column.PROMPT: "question"},
            objective=ObjectiveName.GRPO,
            options=LintOptions(ignore=frozenset({"duplicate"})),
        ),
        ignore,
    )
    assert (report.files, report.rows, report.objective) == ((str(train), str(held)), 4, ObjectiveName.GRPO)
    assert report.skipped == (), "a model is named, and so nothing is left out"
    assert report.setting.max_length == 2
    assert "leaked-row" in {found.rule.name for found in report.found}
    assert "duplicate" not in {found.rule.name for found in report.found}


def test_rows_are_checked_with_a_models_small_files_alone(tiny_model: Path, tmp_path: Path) -> None:
    """Its weights, of many gigabytes it may be, are neither needed nor fetched."""
    small = tmp_path / "model"
    shutil.copytree(tiny_model, small, ignore=shutil.ignore_patterns("*.safetensors"))
    file = str(write_rows(tmp_path / "rows.jsonl", [{"prompt": "2 + 2?", "completion": "4"}]))
    reports = [run_lint(LintRequest(data=file, model=model), ignore) for model in (small, tiny_model)]
    assert reports[0].to_json()["lengths"] == reports[1].to_json()["lengths"]
    assert reports[0].skipped == ()


@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        (None, None, "--label-errors needs a model that reads the rows; name one with --model"),
        ("none", ObjectiveName.GRPO, "--label-errors judges answers, but rows of objective grpo are prompts"),
    ],
)
def test_rows_that_no_model_can_judge_are_refused_by_the_callers_names(
    model: str | None, objective: ObjectiveName | None, said: str
) -> None:
    request = LintRequest(data="rows.jsonl", model=model, objective=objective, label_errors=True)
    with pytest.raises(ConfigError, match=re.escape(said)):
        request.refuse_unreadable("--label-errors", "--model")


def test_without_label_errors_nothing_is_refused() -> None:
    LintRequest(data="rows.jsonl", objective=ObjectiveName.GRPO).refuse_unreadable("--label-errors", "--model")
