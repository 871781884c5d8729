"""`veneer train`: its settings, its result, and everything that it refuses by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, tree, write_rows
from helpers.processes.invoking import given, invoke, refused
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.training.run import train


def test_train_names_everything_that_is_missing() -> None:
    message = refused("train")
    for key in ("model", "output", "data"):
        assert f"- {key}: required" in message
    assert message.startswith("error: ")


def test_train_writes_an_adapter_and_says_where(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        "train", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "run", "--method", "lora",
        "--device", "cpu", "--held-out", "0.2", "--set", "train.steps=2", "--set", "lora.rank=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert third == f"report: {tmp_path / 'run' / 'report.html'}"
    assert first == f"adapter: {tmp_path / 'run'}"
    assert second.startswith("best by evaluation loss (")
    assert Path(second.rpartition(": ")[2]).is_dir()
    assert "step 2/2" in result.stderr
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    assert (recorded.lora.rank, recorded.train.steps, recorded.data.held_out) == (2, 2, 0.2)


def test_shortcuts_are_the_settings_that_their_help_names(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        *given(tiny_model, tiny_data, tmp_path / "run", "--steps", 2, "--lr", "2e-3", "--rank", 3, "--batch-size", 5,
               "--device", "cpu", "--set", "lora.rank=3", "--set", "compute.device=cpu")
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    train_settings = recorded.train
    assert (train_settings.steps, train_settings.learning_rate, train_settings.examples_per_step) == (2, 2e-3, 5)
    assert recorded.lora.rank == 3


def test_flags_and_assignments_go_before_the_file(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: /nowhere\noutput: {tmp_path / 'run'}\nmethod: qlora\ndata: {{file: {tiny_data}}}\n"
        "train: {steps: 9}\nlora: {rank: 9}\n"
    )
    result = invoke(
        "train", "--config", file, "--model", tiny_model, "--set", "method=lora", "--set", "train.steps=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    assert (recorded.model, recorded.method.value, recorded.train.steps, recorded.lora.rank) == (
        str(tiny_model), "lora", 1, 9,
    )  # fmt: skip


def test_train_as_json_is_a_line_for_every_event(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        "train", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "run", "--method", "full",
        "--device", "cpu", "--set", "train.steps=2", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events].count("StepDone") == 2
    assert events[-1]["event"] == "RunFinished"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_resume_needs_the_output_folder_alone(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(run_config(tiny_model, tiny_data, output, "train.steps=2"))
    before = (output / "adapter_model.safetensors").read_bytes()
    (output / "adapter_model.safetensors").unlink()
    result = invoke("train", "--output", output, "--resume")
    assert result.exit_code == 0, result.output
    assert (output / "adapter_model.safetensors").read_bytes() == before
    assert "there is no run to resume in" in refused("train", "--output", tmp_path / "none", "--resume")
    message = refused("train", "--output", output, "--resume", "--set", "lora.rank=7")
    assert "lora.rank: 4 then, 7 now" in message
    assert "already holds a run" in refused(
        "train", "--output", output, "--model", tiny_model, "--data", tiny_data, "--method", "lora"
    )


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--model", "/no/such/model"], "/no/such/model does not exist"),
        (["--data", "/no/such/rows.jsonl"], "/no/such/rows.jsonl does not exist"),
        (["--eval-data", "/no/such/eval.jsonl"], "/no/such/eval.jsonl does not exist"),
        (["--set", "train.epohcs=2"], "train.epohcs: unknown key (did you mean 'train.epochs'?)"),
        (["--set", "lora.rnk=2"], "did you mean 'lora.rank'?"),
        (["--set", "train.epochs"], "write it as key=value"),
        (["--set", "lora.rank=many"], "lora.rank: "),
        (["--set", "train.steps=[1"], "not valid YAML"),
        (["--set", "train.steps=3", "--set", "train.epochs=1"], "both say how long"),
        (["--held-out", "1.5"], "data.held_out: "),
        (["--device", "cpu", "--set", "compute.device=cuda"], "--device cpu and --set compute.device=cuda"),
        (
            ["--rank", "4", "--lr", "1e-3", "--set", "lora.rank=8", "--set", "train.learning_rate=2"],
            "--rank 4 and --set",
        ),
        (["--epochs", "2", "--steps", "3"], "both say how long"),
        (["--device", "tpu"], "use auto, cpu, cuda or cuda:N"),
        (["--config", "/no/such/run.yaml"], "/no/such/run.yaml: cannot be read"),
    ],
)
def test_train_refuses_by_name(more: list[str], named: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert named in refused(*given(tiny_model, tiny_data, tmp_path / "run", *more))


def test_a_file_is_not_blamed_alone_for_what_the_command_line_adds(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\noutput: o\ndata: {file: rows.jsonl, sead: 1}\n")
    assert f"{file} is not valid" in refused("train", "--config", file)
    both = refused("train", "--config", file, "--set", "train.stepps=3")
    assert f"{file} with the settings of the command line is not valid" in both
    assert "train.stepps" in both


def test_bad_rows_are_named_by_file_and_line(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    write_rows(data, [*rows(2), {"mesages": []}, {"messages": "x"}])
    data.write_text(data.read_text() + "{broken\n")
    message = refused(*given(tiny_model, data, tmp_path / "run"))
    for line in (3, 4, 5):
        assert f"{data}:{line}" in message


def test_an_output_that_is_a_file_is_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert str(tmp_path / "run") in refused(*given(tiny_model, tiny_data, tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_model_is_refused_by_name(damage: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / damage).write_bytes((model / damage).read_bytes()[:100])
    assert damage in refused(*given(model, tiny_data, tmp_path / "run"))


def test_nothing_that_a_refused_command_met_is_changed(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    before = tree(adapter), tree(tiny_model)
    refused(*given(tiny_model, tiny_data, adapter))
    refused(*given(tiny_model, tiny_data, tiny_model))
    assert (tree(adapter), tree(tiny_model)) == before


@pytest.mark.slow
def test_devices_are_processes_whose_result_is_that_of_one(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ["--method", "lora", "--device", "cpu", "--steps", "2", "--set", "train.lanes=2", "--set",
                "compute.threads=1", "--set", "lora.rank=2"]  # fmt: skip
    line = [sys.executable, "-m", "veneer", *map(str, given(tiny_model, tiny_data, tmp_path / "two", *settings))]
    done = subprocess.run([*line, "--devices", "2"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"adapter: {tmp_path / 'two'}\n"
    assert invoke(*given(tiny_model, tiny_data, tmp_path / "one", *settings)).exit_code == 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    # A second run into the folder is refused once, by rank 0, and its code is the command's.
    again = subprocess.run([*line, "--devices", "2"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
