"""Planted label errors are found by a model's pass, and the parts agree with what is written out here."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from helpers.models.tiny import write_rows
from helpers.processes.invoking import invoke, refused
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.data.lint.run import PassResult
from veneer.enums import RowKind
from veneer.evaluation import label_errors
from veneer.evaluation.label_errors import are_labels, model_findings, prompt_features, unlikely_from
from veneer.events import Stage, ignore

WORDS = {"parcel": ("parcel", "crate", "late", "customs"), "bill": ("bill", "euro", "paid", "twice"),
         "login": ("password", "screen", "account", "locked")}  # fmt: skip
PLANTED = (7, 31, 58, 90)


def labelled(seed: int = 0) -> list[dict[str, str]]:
    """Questions with the label that their words say, but for those of PLANTED."""
    source = random.Random(seed)
    found = []
    for number in range(120):
        kind = source.choice(list(WORDS))
        words = " ".join(source.choices(WORDS[kind], k=6))
        wrong = source.choice([other for other in WORDS if other != kind])
        found.append({"prompt": f"{words}?", "completion": wrong if number in PLANTED else kind})
    return found


@pytest.fixture(scope="module")
def assistant(tiny_model: Path) -> Assistant:
    return load_assistant(AssistantRequest(model=str(tiny_model)), ignore)


def judged(model: Path, file: Path, *more: str) -> Result:
    result = invoke("data", file, "--model", model, "--label-errors", *more)
    assert result.exit_code in (0, 1), (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def reported(model: Path, file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(judged(model, file, "--json").stdout)
    return found


@pytest.fixture
def refusing_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose template refuses system turns."""
    folder = tmp_path / "refusing"
    shutil.copytree(tiny_model, folder)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    values["chat_template"] = refusal + values["chat_template"]
    file.write_text(json.dumps(values))
    return folder


def with_system(row: dict[str, str]) -> dict[str, Any]:
    told = [("system", "Sort."), ("user", row["prompt"]), ("assistant", row["completion"])]
    return {"messages": [{"role": role, "content": content} for role, content in told]}


def test_planted_errors_are_found(assistant: Assistant, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", labelled())
    found = list(model_findings(assistant, file, {}).findings)
    rows = {number for number, finding in found if finding.rule == "likely-label-error"}
    assert set(PLANTED) <= rows
    assert len(rows) <= len(PLANTED) + 3, "and hardly any other"
    detail = next(finding.detail for number, finding in found if number == 7)
    assert labelled()[7]["completion"] in detail
    assert "is likelier" in detail


def test_an_answer_that_is_noise_is_unlikely(assistant: Assistant, tmp_path: Path) -> None:
    source = random.Random(1)
    rows = [{"prompt": f"{n}?", "completion": "What is the parcel number? " * source.randint(2, 4)} for n in range(40)]
    rows[11] = {"prompt": "11?", "completion": "".join(chr(source.randint(33, 126)) for _ in range(90))}
    file = write_rows(tmp_path / "rows.jsonl", [{"broken": 1}, *rows])
    found = list(model_findings(assistant, file, {}).findings)
    assert 12 in {number for number, _ in found}
    assert {finding.rule for _, finding in found} == {"unlikely-answer"}


def test_of_pairs_the_chosen_answers_are_judged(assistant: Assistant, tmp_path: Path) -> None:
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "none"} for row in labelled()]
    alone = model_findings(assistant, write_rows(tmp_path / "rows.jsonl", labelled()), {}).findings
    file = write_rows(tmp_path / "pairs.jsonl", pairs)
    assert model_findings(assistant, file, {}, kind=RowKind.PAIRS).findings == alone
    assert model_findings(assistant, file, {}).findings == alone  # without an objective they are known by their keys
    assert not model_findings(assistant, file, {}, kind=RowKind.ANSWERS).findings


def test_few_rows_say_nothing_and_the_report_says_so(tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", labelled()[:19])
    found = reported(tiny_model, file)
    assert found["findings"] == []
    reason = "since the model can read 19 of 19 rows with an answer, and at least 20 are needed"
    assert found["not_done"] == [f"likely label errors, {reason}"]
    assert f"not done: likely label errors, {reason}\n" in judged(tiny_model, file).stdout


def test_rows_that_the_template_refuses_are_reported_and_none_is_judged(refusing_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [with_system(row) for row in labelled()])
    found = reported(refusing_model, file)
    assert {one["rule"]: one["count"] for one in found["findings"]}["refused-by-template"] == 120
    assert found["not_done"][0].startswith("likely label errors, since the model can read 0 of 120 rows")


def test_rows_that_the_template_takes_are_judged_beside_refused_ones(refusing_model: Path, tmp_path: Path) -> None:
    content = [*labelled(), *(with_system(row) for row in labelled(seed=1)[:10])]
    found = reported(refusing_model, write_rows(tmp_path / "rows.jsonl", content))
    counts = {one["rule"]: one["count"] for one in found["findings"]}
    assert counts["refused-by-template"] == 10
    assert counts["likely-label-error"] >= len(PLANTED)
    assert found["not_done"] == []


def test_plain_texts_that_repeat_are_no_labels(tiny_model: Path, tmp_path: Path) -> None:
    texts = [{"text": "yes" if number % 4 else "no"} for number in range(48)]
    found = reported(tiny_model, write_rows(tmp_path / "rows.jsonl", texts))
    assert {"duplicate"} <= {one["rule"] for one in found["findings"]} <= {"duplicate", "unlikely-answer"}
    assert found["not_done"] == []


def test_beside_plain_texts_labels_are_judged_as_labels(assistant: Assistant, tmp_path: Path) -> None:
    alone = model_findings(assistant, write_rows(tmp_path / "rows.jsonl", labelled()), {})
    texts = [{"text": "What is the parcel number? " * 8} for _ in range(30)]
    both = write_rows(tmp_path / "both.jsonl", [*labelled(), *texts])
    assert model_findings(assistant, both, {}) == alone
    assert alone.undone == ()


def test_more_labels_than_memory_takes_are_left_out_and_told(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", labelled())
    monkeypatch.setattr(label_errors, "MOST_PROBABILITIES", 360)
    found = model_findings(assistant, file, {})
    assert found.findings
    assert found.undone == ()
    monkeypatch.setattr(label_errors, "MOST_PROBABILITIES", 359)
    reason = (
        "likely label errors, since 120 rows with 3 labels need 360 probabilities, but at most 359 are held; give a "
        "file with fewer rows or labels"
    )
    assert model_findings(assistant, file, {}) == PassResult(undone=(reason,))


def test_as_many_labels_as_rows_allow_are_refused_before_the_model_reads(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_errors, "_prompts", None)
    content = [{"prompt": f"{number}?", "completion": str(number // 4)} for number in range(24_000)]
    (reason,) = model_findings(assistant, write_rows(tmp_path / "rows.jsonl", content), {}).undone
    assert "24,000 rows with 6,000 labels need 144,000,000 probabilities" in reason


def test_more_features_than_memory_takes_are_refused_before_the_model_reads(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, width = write_rows(tmp_path / "rows.jsonl", labelled()), assistant.model.spec.hidden_size
    monkeypatch.setattr(label_errors, "MOST_FEATURES", 120 * width)
    found = model_findings(assistant, file, {})
    assert found.findings
    assert found.undone == ()
    monkeypatch.setattr(label_errors, "MOST_FEATURES", 120 * width - 1)
    monkeypatch.setattr(label_errors, "_prompts", None)
    (reason,) = model_findings(assistant, file, {}).undone
    assert f"120 rows with {width} features of the model each need {120 * width:,} numbers" in reason


def test_the_command_reports_them_where_it_is_asked_to(tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", labelled())
    plain = json.loads(invoke("data", file, "--model", tiny_model, "--json").stdout)
    assert "likely-label-error" not in {finding["rule"] for finding in plain["findings"]}
    asked = json.loads(invoke("data", file, "--model", tiny_model, "--label-errors", "--json").stdout)
    (finding,) = [one for one in asked["findings"] if one["rule"] == "likely-label-error"]
    assert {f"{file}:{number + 1}" for number in PLANTED} <= {row["where"] for row in finding["rows"]}
    assert "name one with --model" in refused("data", file, "--label-errors")


def test_features_do_not_depend_on_the_company(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [list(range(3, 3 + length)) for length in (4, 9, 2, 17)]
    together = prompt_features(assistant.model, prompts, Stage(ignore, "x"))
    monkeypatch.setattr(label_errors, "MOST_TOKENS", 1)
    alone = prompt_features(assistant.model, prompts, Stage(ignore, "x"))
    assert torch.allclose(together, alone, atol=1e-5)


def test_what_counts_as_labels() -> None:
    assert are_labels(["a", "b"] * 8)
    assert not are_labels(["a"] * 16), "one answer is no choice"
    assert not are_labels([str(number) for number in range(16)])
    assert not are_labels(["a", "b" * 41] * 8)
    assert unlikely_from(np.full(20, 2.0)) > 2.0 + 1e-6, "rounding makes no row unlikely"
    assert unlikely_from(np.array([1.0, 2.0, 3.0, 100.0])) == pytest.approx(2.5 + 5 * 1.4826 * 1.0)
