"""Methods side by side: every run in a process of its own, on the same rows, none made twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import veneer
from helpers.models.tiny import rows, run_config, tree, write_rows
from helpers.processes.comparison_workers import ForkedWorkers
from helpers.processes.ctrl_c import pressed_after
from helpers.rows.preference_rows import pairs
from veneer.comparison.order import Order, read_answers
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.run import carry_out, compare_alone
from veneer.config import ComputeSection, parse
from veneer.data.records import read_records
from veneer.enums import Dtype, Method, ObjectiveName
from veneer.errors import ConfigError, DataError, Interrupted, OutputError
from veneer.evaluation.run import evaluate
from veneer.events import Event, Note, Result, RunDone, RunEvent, RunFailed, RunStarted, StageEnded, StepDone, ignore
from veneer.training.run import train

SETTINGS = (
    "train.steps=3", "train.learning_rate=0.01", "lora.rank=4", "compute.device=cpu", "compute.dtype=float32",
    "compute.threads=1",
)  # fmt: skip
FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


class Heard:
    """Every event of a comparison."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


def question(model: Path, data: Path, output: Path) -> CompareRequest:
    return CompareRequest(
        model=str(model),
        data=str(data),
        output=str(output),
        methods=(Method.FULL, Method.LORA),
        seeds=2,
        held_out=0.3,
        limit=4,
        max_new_tokens=8,
        assignments=SETTINGS,
    )


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, comparison_workers: ForkedWorkers, tiny_model: Path, tiny_data: Path
) -> CompareResult:
    with pytest.MonkeyPatch.context() as patch:
        comparison_workers.stand_in(patch)
        return compare_alone(question(tiny_model, tiny_data, tmp_path_factory.mktemp("compared") / "out"), ignore)


def test_answers_longer_than_the_context_are_refused_before_anything_is_trained(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = replace(question(tiny_model, tiny_data, tmp_path / "out"), max_new_tokens=513)
    with pytest.raises(ConfigError, match="max_new_tokens: 513, but the model's context has 512 tokens"):
        compare_alone(asked, ignore)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("metric", "said"),
    [("own.py:bad", "failed on .*eval.jsonl:1: it raised ZeroDivisionError"), ("number", "no number")],
)
def test_a_metric_that_cannot_be_computed_is_refused_before_anything_is_trained(
    metric: str, said: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def bad(answer, reference, row):\n    return 1 / 0\n")
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}?", "completion": "xy"[n % 2]} for n in range(9)])
    asked = replace(question(tiny_model, data, tmp_path / "out"), metrics=(metric,))
    with pytest.raises(ConfigError, match=said):
        compare_alone(asked, ignore)
    assert not (tmp_path / "out" / "runs").exists()


def test_what_a_library_prints_in_another_encoding_becomes_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's standard output has its events, and whatever a C library prints in between."""
    program = tmp_path / "prints.py"
    program.write_text('import os; os.write(1, b\'caf\\xe9\\n{"event": "Note", "message": "after it"}\\n\')\n')
    monkeypatch.setattr("veneer.comparison.run.command_of", lambda module: [sys.executable, "-I", "-S", str(program)])
    config = parse({"model": "m", "output": str(tmp_path / "run"), "data": {"file": "rows.jsonl"}}, where="the test")
    heard = Heard()
    assert carry_out(Order("lora", 0, config, "eval.jsonl", None, choices=False), heard) is None
    notes = [one.event.message for one in heard.events if isinstance(one, RunEvent) and isinstance(one.event, Note)]
    assert notes == ["caf\ufffd", "after it"]


def test_every_method_is_run_with_every_seed_and_scored_as_evaluate_does(made: CompareResult, tiny_model: Path) -> None:
    output = Path(made.config.output)
    assert [(one.method, one.seed) for one in made.outcomes] == [
        ("base", 0), ("full", 0), ("lora", 0), ("full", 1), ("lora", 1),
    ]  # fmt: skip
    assert made.problems == {}
    for one in made.outcomes[1:]:
        folder = output / "runs" / f"{one.method}-{one.seed}"
        model, adapter = (str(folder), None) if one.method == "full" else (str(tiny_model), folder)
        report = evaluate(model, output / "eval.jsonl", adapter=adapter, compute=FLOAT32, max_new_tokens=8)
        # Measures of the task are among them.
        assert {"exact", "loss", "json_f1", "json_valid"} < one.metrics.keys()
        assert one.metrics == pytest.approx({row.name: row.value for row in report.adapter or report.base})
        assert made.details[folder.name] == next(iter(reversed(report.details.values())))
        answers = [sample.adapter if adapter else sample.base for sample in report.samples]
        assert read_answers(folder, len(answers)) == answers
        assert one.steps == 3
        assert one.learning_rate == 0.01
        assert one.bytes_on_disk == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        assert one.peak_memory_mb > 50
        assert one.seconds > 0
        assert not (folder / "checkpoints").exists()
    lora, full = (next(one for one in made.methods if one.method == name) for name in ("lora", "full"))
    assert lora.trainable < full.trainable
    assert lora.bytes_on_disk < full.bytes_on_disk
    assert {one.metrics["loss"] for one in made.outcomes if one.method == "lora"} != {lora.metrics["loss"].mean}


def test_all_runs_train_and_score_the_same_rows_and_no_row_is_both(made: CompareResult, tiny_data: Path) -> None:
    output = Path(made.config.output)
    content = set((output / "train.jsonl").read_text().splitlines())
    scored = [json.loads(line) for line in (output / "eval.jsonl").read_text().splitlines()]
    everything = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    assert (made.training_rows, made.evaluation_rows) == (14, 4)
    assert [json.loads(line) for line in content if json.loads(line) in scored] == []
    assert all(row in everything for row in scored)
    for run in (output / "runs").glob("*-*"):
        settings = yaml.safe_load((run / "config.yaml").read_text())
        assert settings["data"]["file"] == str(output / "train.jsonl")
        assert settings["train"]["seed"] == int(run.name[-1])
        assert settings["method"] == run.name[:-2]


def test_what_is_written_is_what_is_returned(made: CompareResult) -> None:
    output = Path(made.config.output)
    assert json.loads((output / "compare.json").read_text()) == json.loads(json.dumps(made.to_json()))
    assert made.warnings == [
        "4 rows say little: below 30 an interval may be too narrow, and hardly any difference shows"
    ]
    names = {path.name for path in output.iterdir()}
    assert names >= {"loss-memory.svg", "loss-time.svg", "settings.json"}
    assert (output / "loss-memory.svg").read_text().count("<circle") == 4
    assert {(one.method, one.reference) for one in made.differences} == {("lora", "full")}
    assert {one.values.name for one in made.differences} == made.outcomes[0].metrics.keys() - {"perplexity"}
    assert {one.values.interval for one in made.differences} <= {"Student over seeds × rows", "Tango"}


@pytest.mark.usefixtures("forked_runs")
def test_what_is_done_is_not_done_again_and_more_can_be_added(
    made: CompareResult, tiny_model: Path, tiny_data: Path
) -> None:
    heard = Heard()
    before = tree(Path(made.config.output) / "runs")
    otherwise_written = ("lora={rank: 4}", "compute={threads: 1.0, dtype: 'float32', device: cpu}")
    more = replace(
        made.config,
        methods=(Method.LORA, Method.FULL, Method.QLORA),
        seeds=1,
        assignments=("train={learning_rate: 1e-2, steps: 3}", *otherwise_written),
    )
    again = compare_alone(more, heard)
    done = [event for event in heard.events if isinstance(event, RunDone)]
    assert [event.run for event in done if not event.before] == ["qlora-0"]
    assert [event.run for event in done if event.before] == ["base", "lora-0", "full-0"]
    started = [event for event in heard.events if isinstance(event, RunEvent) and isinstance(event.event, RunStarted)]
    assert [event.run for event in started] == ["qlora-0"]
    assert heard.events[-1] == Result(verb="compare", values=again.to_json())
    after = tree(Path(made.config.output) / "runs")
    assert {name: after[name] for name in before} == before
    assert [one.method for one in again.methods] == ["base", "lora", "full", "qlora"]
    assert again.outcomes[0].metrics == made.outcomes[0].metrics


@pytest.mark.parametrize(
    "changed",
    [
        {"assignments": (*SETTINGS, "train.warmup=0")}, {"limit": 5}, {"held_out": 0.4}, {"max_new_tokens": 9},
        {"more": {Method.LORA: ("lora.alpha=1",)}},
    ],
)  # fmt: skip
def test_a_folder_of_another_comparison_is_refused(made: CompareResult, changed: dict[str, Any]) -> None:
    before = tree(Path(made.config.output))
    with pytest.raises(OutputError, match="contains another comparison"):
        compare_alone(replace(made.config, **changed), ignore)
    assert tree(Path(made.config.output)) == before


def test_settings_of_a_method_that_are_not_given_again_are_another_comparison(
    made: CompareResult, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(made.config.output, tmp_path / "out"))
    settings = json.loads((output / "settings.json").read_text())
    settings |= {"setting lora.rank of lora": 64}
    (output / "settings.json").write_text(json.dumps(settings, indent=1))
    with pytest.raises(OutputError, match=r"setting lora\.rank of lora: 64 there, none now"):
        compare_alone(replace(made.config, output=str(output)), ignore)


@pytest.mark.parametrize("text", ["{", "[]", "null", "[1]"])
def test_settings_that_veneer_did_not_write_are_refused(text: str, made: CompareResult, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(text)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "runs" / "base" / "result.json").write_text("{}")
    with pytest.raises(OutputError, match="give another output folder"):
        compare_alone(replace(made.config, output=str(tmp_path)), ignore)


@pytest.mark.usefixtures("forked_runs")
def test_a_comparison_that_was_refused_keeps_nobody_from_its_folder(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = replace(question(tiny_model, tiny_data, tmp_path / "out"), methods=(Method.LORA,), seeds=1)
    with pytest.raises(ConfigError, match=r"lora\.rnk"):
        compare_alone(replace(config, assignments=(*config.assignments, "lora.rnk=4")), ignore)
    assert compare_alone(config, ignore).problems == {}


@pytest.mark.usefixtures("forked_runs")
def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(
    made: CompareResult, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = replace(question(tiny_model, tiny_data, tmp_path / "out"), methods=(Method.LORA,), seeds=1)
    write_rows(tmp_path / "train.jsonl", [])
    whole = Path(made.config.output)
    folder = tmp_path / "out" / "runs" / "lora-0"
    config = run_config(tiny_model, whole / "train.jsonl", folder, "lora.alpha=32", *SETTINGS, "train.save_every=1")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    heard = Heard()
    compare_alone(asked, heard)
    inner = [event.event for event in heard.events if isinstance(event, RunEvent)]
    assert [event.resumed_at for event in inner if isinstance(event, RunStarted)] == [1]
    assert {event.stage for event in inner if isinstance(event, StageEnded)} >= {"answering with the model"}
    name = "adapter_model.safetensors"
    assert (folder / name).read_bytes() == (whole / "runs" / "lora-0" / name).read_bytes()


def test_a_stopped_run_stops_the_comparison_with_a_checkpoint(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = replace(question(tiny_model, tiny_data, tmp_path / "out"), methods=(Method.LORA,), seeds=1)
    asked = replace(asked, assignments=("train.steps=2000", *SETTINGS[1:]))
    sent: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, RunEvent) and isinstance(event.event, StepDone) and not sent:
            own = os.getpid()
            for child in Path(f"/proc/{own}/task/{own}/children").read_text().split():
                if "veneer.comparison.worker" in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
                    sent.append(int(child))
                    os.kill(int(child), signal.SIGINT)

    with pytest.raises(Interrupted, match="lora-0 was stopped"):
        compare_alone(asked, stop)
    assert len(sent) == 1
    assert list((tmp_path / "out" / "runs" / "lora-0" / "checkpoints").glob("step-*"))
    assert not (tmp_path / "out" / "compare.json").exists()


@pytest.mark.usefixtures("forked_runs")
def test_ctrl_c_of_a_script_or_notebook_stops_the_run_with_a_checkpoint(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """It comes to the program alone, and not to the process of the run."""
    steps = ("train.steps=2000", *SETTINGS[1:])
    with pytest.raises(KeyboardInterrupt, match="lora-0 was stopped; run the same command"), pressed_after(3) as press:
        veneer.compare(
            tiny_model, tiny_data, tmp_path, methods=["lora"], seeds=1, assignments=steps, subscribers=[press]
        )
    assert list((tmp_path / "runs" / "lora-0" / "checkpoints").glob("step-*"))


@pytest.mark.usefixtures("forked_runs")
def test_a_method_that_cannot_run_is_told_and_the_others_go_on_over_a_file_of_evaluation_rows(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    other = write_rows(tmp_path / "test.jsonl", rows(6, seed=9))
    asked = replace(question(tiny_model, tiny_data, tmp_path / "out"), seeds=1, eval_data=str(other), limit=None)
    heard = Heard()
    result = compare_alone(replace(asked, more={Method.FULL: ("compute.memory_limit_mb=1",)}), heard)
    failed = [event for event in heard.events if isinstance(event, RunFailed)]
    assert [(event.run, event.message) for event in failed] == [("full-0", result.problems["full-0"])]
    assert result.problems.keys() == {"full-0"}
    assert "1 MB" in result.problems["full-0"]
    assert [one.method for one in result.methods] == ["base", "lora"]
    assert result.differences == []
    assert (result.training_rows, result.evaluation_rows) == (20, 6)
    found = [record.messages for record in read_records(tmp_path / "out" / "eval.jsonl")]
    assert found == [record.messages for record in read_records(other)]


CHOICES = [
    {"prompt": f"{number}: the parcel?", "completion": answer, "choices": ["late", "blue"], "day": number // 2}
    for number, answer in enumerate(["late", "blue"] * 7)
]
"""Rows with choices. The first ten are those of one source, and the others those of another."""


@dataclass
class Chosen:
    """A comparison over two sources of rows with choices, which are held out by their days."""

    asked: CompareRequest
    result: CompareResult

    @property
    def output(self) -> Path:
        assert self.asked.output is not None
        return Path(self.asked.output)

    @property
    def run(self) -> Path:
        return self.output / "runs" / "lora-0"

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, comparison_workers: ForkedWorkers, tiny_model: Path) -> Chosen:
    folder = tmp_path_factory.mktemp("choices")
    parts = {"a": CHOICES[:10], "b": CHOICES[10:]}
    files = [write_rows(folder / f"{name}.jsonl", part) for name, part in parts.items()]
    sources = f"data.sources=[{{file: {files[0]}, weight: 0.5}}, {{file: {files[1]}}}]"
    asked = CompareRequest(
        model=str(tiny_model), output=str(folder / "out"), methods=(Method.LORA,), seeds=1, held_out=0.3,
        max_new_tokens=4, assignments=(*SETTINGS, sources, "data.split={by: group, column: day}"),
        metrics=("choice", "json"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        comparison_workers.stand_in(patch)
        return Chosen(asked, compare_alone(asked, ignore))


def test_every_row_of_the_sources_is_trained_in_its_source_or_held_out(chosen: Chosen) -> None:
    first, second, held = (chosen.rows(name) for name in ("train-0.jsonl", "train-1.jsonl", "eval.jsonl"))
    assert sorted(map(str, (*first, *second, *held))) == sorted(map(str, CHOICES))
    assert first
    assert all(row in CHOICES[:10] for row in first)
    assert second
    assert all(row in CHOICES[10:] for row in second)
    assert (chosen.result.training_rows, chosen.result.evaluation_rows) == (len(first) + len(second), len(held))


def test_rows_are_held_out_by_whole_groups(chosen: Chosen) -> None:
    trained = {row["day"] for name in ("train-0.jsonl", "train-1.jsonl") for row in chosen.rows(name)}
    held = {row["day"] for row in chosen.rows("eval.jsonl")}
    assert held
    assert not trained & held


def test_sources_have_their_weights_in_the_runs(chosen: Chosen) -> None:
    settings = yaml.safe_load((chosen.run / "config.yaml").read_text())
    assert [one["weight"] for one in settings["data"]["sources"]] == [0.5, 1.0]


def test_a_named_metric_that_no_row_has_is_named_in_a_warning(chosen: Chosen) -> None:
    assert chosen.result.warnings[-1] == "--metric json: no row has the measure json_f1, so the results have none"


def test_choices_have_the_likelihoods_that_evaluate_finds(chosen: Chosen, tiny_model: Path) -> None:
    report = evaluate(
        str(tiny_model), chosen.output / "eval.jsonl", adapter=chosen.run, compute=FLOAT32, metrics=["choice"],
        max_new_tokens=4,
    )  # fmt: skip
    expected = {row.name: row.value for row in report.adapter}
    trained = next(one for one in chosen.result.outcomes if one.method == "lora")
    assert chosen.result.primary == "choice_accuracy"
    assert {"choice_accuracy", "brier"} < trained.metrics.keys()
    assert trained.metrics == pytest.approx({name: expected[name] for name in trained.metrics})


@pytest.mark.usefixtures("forked_runs")
def test_nothing_is_trained_again_where_only_likelihoods_are_missing(chosen: Chosen) -> None:
    """A comparison that had none is completed."""
    (chosen.run / "choices.json").unlink()
    heard = Heard()
    again = compare_alone(chosen.asked, heard)
    inner = [event.event for event in heard.events if isinstance(event, RunEvent)]
    assert inner
    assert not any(isinstance(event, StepDone | RunStarted) for event in inner)
    assert again.outcomes == chosen.result.outcomes


def test_a_file_and_sources_or_neither_are_refused(chosen: Chosen, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", CHOICES)
    for changed in ({"assignments": SETTINGS}, {"data": str(file)}):
        with pytest.raises(ConfigError, match="give one of them"):
            compare_alone(replace(chosen.asked, **changed), ignore)


@pytest.mark.slow
def test_dpo_goes_on_with_what_fine_tuning_left_and_is_compared_with_it(tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    asked = CompareRequest(
        model=str(tiny_model), data=str(write_rows(tmp_path / "pairs.jsonl", pairs(20))), output=str(output),
        methods=(Method.LORA,), seeds=1, held_out=0.3, max_new_tokens=4, preference=ObjectiveName.DPO,
        # Fine-tuning has no section `dpo`, whichever way it is set.
        assignments=(*SETTINGS, "dpo={beta: 0.5}"),
    )  # fmt: skip
    made = compare_alone(asked, ignore)
    assert made.problems == {}
    assert [one.method for one in made.outcomes] == ["base", "lora", "lora-dpo"]
    assert {(one.method, one.reference) for one in made.differences} == {("lora-dpo", "lora")}
    assert {"loss", "exact", "choice_accuracy"} < made.outcomes[2].metrics.keys()
    assert made.primary == "choice_accuracy"
    tuned, preferred = (
        yaml.safe_load((output / "runs" / name / "config.yaml").read_text()) for name in ("lora-0", "lora-dpo-0")
    )
    assert (tuned["objective"], preferred["objective"], preferred["dpo"]["beta"]) == ("sft", "dpo", 0.5)
    assert preferred["train"]["from_adapter"] == str(output / "runs" / "lora-0")
    # Where fine-tuning is refused, what would go on with it is named too.
    broken = replace(asked, output=str(tmp_path / "none"), more={Method.LORA: ("compute.memory_limit_mb=1",)})
    failed = compare_alone(broken, ignore)
    assert "it continues from lora-0, which was not run" in failed.problems["lora-dpo-0"]
    assert [one.method for one in failed.outcomes] == ["base"]


def test_what_contradicts_itself_is_refused_before_anything_runs(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = question(tiny_model, tiny_data, tmp_path / "out")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"assignments": ("train.seed=1", "method=lora")}, ConfigError, r"train\.seed(.|\n)*method"),
        ({"more": {Method.LORA: ("output=x",)}}, ConfigError, "output"),
        ({"assignments": ("train.stepz=1",)}, ConfigError, r"train\.stepz"),
        ({"held_out": 0.0}, ConfigError, "must lie between 0 and 1"),
        ({"methods": ()}, ConfigError, "at least one method"),
        ({"held_out": 0.99}, DataError, "leaves none to train on"),
        ({"data": "absent.jsonl"}, DataError, "does not exist"),
    ]
    for changed, kind, message in cases:
        with pytest.raises(kind, match=message):
            compare_alone(replace(asked, **changed), ignore)
        assert not (tmp_path / "out" / "runs").exists()


def test_rows_of_a_comparison_that_never_began_do_not_stay_in_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(veneer.DataError, match="there is a prompt but no completion"):
        veneer.compare(str(tiny_model), [{"prompt": "x"}], tmp_path / "out", eval_data=[{"prompt": "x"}])
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_comparison_is_made_by_the_metrics_that_are_named(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsn"):
        veneer.compare(str(tiny_model), tiny_data, tmp_path / "out", metrics=["jsn"])
    with pytest.raises(ConfigError, match="jsn"):
        veneer.compare(str(tiny_model), tiny_data, tmp_path / "out", metrics="jsn")
