"""Tasks of lm-evaluation-harness as suites of `evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config, write_rows
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError
from veneer.evaluation import harness
from veneer.evaluation.harness import check_tasks, open_task
from veneer.evaluation.run import evaluate
from veneer.events import Event, Note, StageBegun, ignore
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


def test_bars_of_the_harness_are_kept_from_standard_error_and_its_sentences_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    with harness.without_bars():
        for _ in tqdm(range(3), desc="building"):
            pass
        for _ in tqdm(iter(range(3)), desc="Generating test split", unit=" examples"):
            pass
        print("a warning of 5 rows", file=sys.stderr)
    assert capsys.readouterr().err == "a warning of 5 rows\n"


def test_a_measure_of_all_rows_at_once_has_its_interval(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'veneer[lm-eval]')")
    data = write_rows(tmp_path / "rows.jsonl", [{"q": f"{n}: the crate?", "right": n % 2} for n in range(8)])
    task = tmp_path / "crates.yaml"
    content = {
        "task": "crates_mcc", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}",
        "doc_to_choice": ["blue", "late"], "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "mcc"}, {"metric": "acc"}, {"metric": "f1"}],
    }  # fmt: skip
    task.write_text(json.dumps(content), encoding="utf-8")
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=5")).output
    capsys.readouterr()
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=2, max_new_tokens=2,
        suites=[f"lm-eval:{task}"], subscribers=[seen.append],
    )  # fmt: skip
    (suite,) = report.suites
    named = {one.name: one for one in (suite.comparison, *suite.others)}
    assert set(named) == {"mcc", "acc", "f1"}
    for name in ("mcc", "f1"):
        assert named[name].low <= named[name].difference <= named[name].high
        assert named[name].p is not None
    assert not any(isinstance(event, Note) and "without an interval" in event.message for event in seen)
    said = capsys.readouterr().err
    assert "it/s" not in said
    assert "%|" not in said


@pytest.mark.parametrize(
    ("changed", "helper", "said"),
    [
        ({"doc_to_text": "{{absent.x.y}}"}, "", "raised UndefinedError: 'absent' is undefined"),
        ({"process_results": "!function helper.score"}, "import absent_package\n", "No module named 'absent_package'"),
        ({"dataset_kwargs": {"data_files": {"test": "empty.jsonl"}}}, "", "cannot use the task, which raised"),
    ],
    ids=["template", "package", "empty"],
)  # fmt: skip
def test_a_task_that_cannot_be_used_is_refused_with_what_it_raised(
    changed: dict[str, Any], helper: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'veneer[lm-eval]')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        open_task(f"lm-eval:{crates(tmp_path, changed, helper)}", None)


def test_what_a_task_raises_of_answers_is_said_with_its_place(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'veneer[lm-eval]')")
    helper = "def score(doc, results):\n    return {'acc': 1 / 0}\n"
    suite = open_task(f"lm-eval:{crates(tmp_path, {'process_results': '!function helper.score'}, helper)}", 2)
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    with pytest.raises(ConfigError, match=r"raised ZeroDivisionError: division by zero \(.*helper\.py:2\)"):
        suite.measures(assistant, base=True, emit=ignore)


def crates(folder: Path, changed: dict[str, Any], helper: str) -> Path:
    """A task of one's own."""
    data = write_rows(folder / "rows.jsonl", [{"q": f"{n}: the crate?", "right": n % 2} for n in range(4)])
    (folder / "empty.jsonl").write_text("")
    (folder / "helper.py").write_text(helper)
    content = {
        "task": "crates_own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}",
        "doc_to_choice": ["blue", "late"], "doc_to_target": "{{right}}", "metric_list": [{"metric": "acc"}], **changed,
    }  # fmt: skip
    task = folder / "crates.yaml"
    task.write_text(json.dumps(content).replace('"!function helper.score"', "!function helper.score"))
    return task


def test_where_lm_eval_is_missing_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(part: str) -> Any:
        raise ImportError(part)

    monkeypatch.setattr(harness, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'veneer\[lm-eval\]'"):
        check_tasks(["lm-eval:arc_easy"])


def test_tasks_run_on_base_and_adapter_in_one_loading(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'veneer[lm-eval]')")
    rows = [{"q": f"{n}: the crate?", "options": ["blue", "late"], "right": n % 2} for n in range(8)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    task = tmp_path / "crates.yaml"
    content = {
        "task": "crates", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}", "num_fewshot": 1, "fewshot_split": "test",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    task.write_text(json.dumps(content), encoding="utf-8")
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=5")).output
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=2, max_new_tokens=2,
        suites=[f"lm-eval:{task}", f"lm-eval-chat:{task}"], suite_items=6, subscribers=[seen.append],
    )  # fmt: skip
    assert [(one.rows, one.comparison.name) for one in report.suites] == [(6, "acc"), (6, "acc")]
    assert [one.name for one in report.suites[0].others] == ["acc_norm"]
    assert report.suites[0].comparison.interval == "Tango"
    # Base and adapter were asked with the same examples, which are those of the harness itself.
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from veneer.evaluation.lm_eval import VeneerLM

    manager = TaskManager(include_defaults=False)
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    tuned = simple_evaluate(VeneerLM(assistant), tasks=[str(task)], limit=6, bootstrap_iters=0, task_manager=manager)
    with assistant.as_base():
        base = simple_evaluate(VeneerLM(assistant), tasks=[str(task)], limit=6, bootstrap_iters=0, task_manager=manager)
    found = report.suites[0].others[0]
    assert (found.base, found.adapter) == tuple(one["results"]["crates"]["acc_norm,none"] for one in (base, tuned))
    assert sum(isinstance(event, StageBegun) and "loading" in event.stage for event in seen) == 1
    with pytest.raises(ConfigError, match=r"lm-eval:absent\.yaml: no such file"):
        check_tasks(["lm-eval:absent.yaml"])


@pytest.mark.slow  # the harness reads the thousands of files of its own tasks
def test_names_that_the_harness_does_not_know_are_refused_with_the_nearest() -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'veneer[lm-eval]')")
    with pytest.raises(ConfigError) as caught:
        check_tasks(["lm-eval:arc_eazy", "lm-eval:hellaswag", "lm-eval-chat:absent.yaml"])
    for part in ("lm-eval:arc_eazy (did you mean 'arc_easy'?)", "lm-eval-chat:absent.yaml: no such file"):
        assert part in str(caught.value)
    assert "hellaswag" not in str(caught.value)
