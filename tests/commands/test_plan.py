"""The verb plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from helpers.processes.invoking import invoke
from helpers.training.plan_setups import LLAMA_65B
from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.quantization import quantize
from veneer.training.run import train


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_65B), encoding="utf-8")
    return file


@pytest.mark.parametrize("directory", [False, True])
def test_a_config_json_alone_is_enough(config_file: Path, directory: bool) -> None:
    model = str(config_file.parent if directory else config_file)
    ended = invoke("plan", "--model", model, "--device", "h100", "--length", "512", "--json")
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["fits"]
    assert found["peak"] == max(found["phases"].values())
    assert not found["rate"]["measured"]


def test_supposed_rows_beyond_the_models_context_are_told_of_as_a_runs_are(config_file: Path) -> None:
    asked = ("plan", "--model", config_file, "--device", "h200", "--rows", 20)
    said = "longer than the model's context of 2,048 tokens"
    assert f"1 row {said} (the longest has 2,049)" in invoke(*asked, "--tokens", 100, "--length", 2049).stderr
    assert f"20 rows {said} (the longest has 3,000)" in invoke(*asked, "--tokens", 3000).stderr
    assert said not in invoke(*asked, "--tokens", 100, "--length", 2048).stderr


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_the_base_of_a_server_is_planned_as_its_files_hold_it(scheme: str, tiny_model: Path, tmp_path: Path) -> None:
    quantize(tiny_model, tmp_path / "stored", quant=QuantSection(scheme=Scheme(scheme)))
    asked = ("plan", "--serve", "--sequences", 1, "--adapters", 1, "--json")
    stored = invoke(*asked, "--model", tmp_path / "stored")
    quantised = invoke(*asked, "--model", tiny_model, "--set", f"quant.scheme={scheme}")
    assert json.loads(stored.stdout)["base"] == json.loads(quantised.stdout)["base"]


def test_the_table_names_every_part(config_file: Path) -> None:
    ended = invoke(
        "plan", "--model", str(config_file), "--device", "h200", "--rows", "100", "--tokens", "300", "--rank", "8"
    )
    assert ended.exit_code == 0, ended.output
    for word in ("base", "adapters", "activations", "loading", "training", "micro-batch", "time", "disk: result"):
        assert word in ended.stdout


def test_the_title_names_where_the_run_would_compute(tiny_model: Path) -> None:
    settings = ("plan", "--model", str(tiny_model), "--rows", "20", "--tokens", "20")
    for more in ((), ("--set", "compute.device=cpu"), ("--device", "cpu")):
        assert "qlora on cpu" in " ".join(invoke(*settings, *more).stdout.split())


def test_what_does_not_fit_is_shown_and_refused(config_file: Path) -> None:
    ended = invoke("plan", "--model", str(config_file), "--device", "h100", "--memory-limit-mb", "20000", "--json")
    assert ended.exit_code == 2
    assert not json.loads(ended.stdout)["fits"]
    assert "may use 20,000 MB" in ended.stderr


def test_rows_of_a_file_are_planned_as_they_would_be_trained(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    ended = invoke(
        "plan", "--model", str(tiny_model), "--method", "lora", "--data", str(tiny_data), "--rank", "4",
        "--device", "cpu", "--set", "compute.dtype=float32", "--json",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    plan = train(run_config(tiny_model, tiny_data, tmp_path / "run")).plan
    found = json.loads(ended.stdout)
    assert found["cut"] == asdict(plan.choice.batch)
    assert found["steps"] == plan.steps


def test_sources_are_planned_as_the_rows_of_one_file(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    lines = tiny_data.read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:9]), ("b.jsonl", lines[9:])):
        (tmp_path / name).write_text("".join(part))
    common = ("plan", "--model", tiny_model, "--device", "cpu", "--method", "lora", "--json")
    sources = f"data.sources=[{{file: {tmp_path / 'a.jsonl'}}}, {{file: {tmp_path / 'b.jsonl'}}}]"
    one = invoke(*common, "--data", tiny_data)
    several = invoke(*common, "--set", sources)
    pattern = invoke(*common, "--data", tmp_path / "*.jsonl")
    found = [json.loads(ended.stdout) for ended in (one, several, pattern)]
    # What the process itself takes grows from one call to the next.
    facts = [{key: plan[key] for key in ("steps", "micro_batch_tokens")} for plan in found]
    assert facts == [facts[0]] * 3
    assert "not both" in invoke(*common, "--set", sources, "--tokens", "5").stderr
    longer = invoke("plan", "--model", str(tiny_model), "--tokens", "100", "--length", "50")
    assert longer.exit_code == 2
    assert "--tokens 100 of an average row cannot exceed --length 50 of the longest" in longer.stderr


def test_the_settings_of_a_file_are_planned(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {tiny_model}\noutput: run\nmethod: lora\ndata: {{file: {tiny_data}}}\n"
        "compute: {device: cpu}\ntrain: {examples_per_step: 4}\n"
    )
    found = [
        json.loads(invoke("plan", "--json", *more).stdout)
        for more in (
            ("--config", file),
            ("--model", tiny_model, "--data", tiny_data, "--method", "lora", "--device", "cpu",
             "--set", "train.examples_per_step=4"),
            ("--config", file, "--set", "train.examples_per_step=10"),
        )
    ]  # fmt: skip
    assert [plan["steps"] for plan in found] == [5, 5, 2]
    assert found[0]["micro_batch_tokens"] == found[1]["micro_batch_tokens"]
    assert "not both" in invoke("plan", "--config", file, "--rows", "5").stderr
    file.write_text("method: lora\n")
    assert "Missing option '--model'" in invoke("plan", "--config", file).stderr


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--device", "abacus"), "--device 'abacus' is unknown"),
        (("--device", "cuda:99"), "--device 'cuda:99': torch sees"),
        (("--set", "compute.device=cuda:99"), "compute.device 'cuda:99': torch sees"),
        (("--serve", "--set", "lora.rank=auto"), "lora.rank auto is chosen for the rows of a run"),
        (("--rank", "65536", "--set", "lora.init=olora"), "init olora decomposes a layer"),
        (("--data", "rows.jsonl", "--tokens", "5"), "--data, or --rows and --tokens, not both"),
        (("--data", "rows.jsonl", "--rows", "5"), "--data, or --rows and --tokens, not both"),
        (("--serve", "--rows", "5"), "without --data, --rows"),
        (("--set", "lora.ranks=3"), "did you mean"),
        (("--set", "data=rows.jsonl"), "data: is a section, and must be a mapping of its keys"),
    ],
)
def test_the_command_refuses_by_name(more: tuple[str, ...], named: str, config_file: Path) -> None:
    ended = invoke("plan", "--model", str(config_file), *more)
    assert ended.exit_code == 2
    assert named in ended.stderr
