"""Whole runs: the same command gives the same bytes, whatever happened in between, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from tiny import CommandLine, examples, rows, run_config, tree, write_model, write_rows
from veneer.assistant import open_assistant
from veneer.config import parse, to_yaml
from veneer.config_values import read_yaml
from veneer.enums import Method
from veneer.errors import (
    AdapterError,
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    ModelError,
    OutputError,
)
from veneer.events import Event, Note, StepDone, read_events
from veneer.io import files
from veneer.io.checkpoint import open_checkpoint
from veneer.load import load_model
from veneer.model.attention import PackedAttention
from veneer.reproduction.run import reproduce
from veneer.training.checkpoint import verify
from veneer.training.run import train
from veneer.training.session import RunResult

WEIGHTS = {"lora": "adapter_model.safetensors", "qlora": "adapter_model.safetensors", "full": "model.safetensors"}
SETTINGS = {
    "lora": ("method=lora", "lora.dropout=0.1"),
    "qlora": ("method=qlora",),
    "full": ("method=full", "train.learning_rate=0.001"),
}
LONG = ("train.epochs=3", "train.save_every=1", "data.held_out=0.2", "train.eval_every=2")
"""16 rows to train on, in 2 steps an epoch: 6 steps."""


def options(model: Path, data: Path, output: Path, *assignments: str) -> list[str]:
    config = run_config(model, data, output, *assignments)
    file = output.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    return ["train", "--config", str(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> dict[str, RunResult]:
    """One uninterrupted run of each method."""
    root = tmp_path_factory.mktemp("finished")
    return {
        method: train(run_config(tiny_model, tiny_data, root / method, *SETTINGS[method], *LONG)) for method in SETTINGS
    }


def weights(folder: Path, method: str) -> bytes:
    return (folder / WEIGHTS[method]).read_bytes()


# --------------------------------------------------------------------------------------------------------- same bytes


@pytest.mark.parametrize("method", SETTINGS)
def test_the_same_command_gives_the_same_bytes(
    method: str, finished: dict[str, RunResult], command_line: CommandLine, tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    expected = weights(finished[method].output, method)
    train(run_config(tiny_model, tiny_data, tmp_path / "here", *SETTINGS[method], *LONG))
    assert weights(tmp_path / "here", method) == expected
    ended = command_line.run(*options(tiny_model, tiny_data, tmp_path / "there", *SETTINGS[method], *LONG))
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "there", method) == expected
    other = run_config(tiny_model, tiny_data, tmp_path / "seed", *SETTINGS[method], *LONG, "train.seed=1")
    train(other)
    assert weights(tmp_path / "seed", method) != expected


@pytest.mark.parametrize("method", SETTINGS)
def test_the_recorded_configuration_makes_the_run_again(
    method: str, finished: dict[str, RunResult], tmp_path: Path
) -> None:
    recorded = read_yaml(finished[method].output / "config.yaml")
    assert recorded["train"]["steps"] == 6
    assert recorded["train"]["examples_per_step"] == 8
    assert recorded["compute"]["dtype"] == "float32"
    config = parse({**recorded, "output": str(tmp_path / "again")}, where="x")
    train(config)
    assert weights(tmp_path / "again", method) == weights(finished[method].output, method)


@pytest.mark.parametrize("method", SETTINGS)
def test_losses_are_equal_to_the_last_bit_over_100_steps(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    losses: list[list[float]] = []
    for name in ("a", "b"):
        seen: list[Event] = []
        settings = (*SETTINGS[method], "train.steps=100", "train.save_every=100")
        config = run_config(tiny_model, tiny_data, tmp_path / name, *settings)
        train(config, subscribers=[seen.append])
        losses.append([event.loss for event in seen if isinstance(event, StepDone)])
    assert len(losses[0]) == 100
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] / 2


def test_a_smaller_micro_batch_trains_the_same_to_rounding(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("method=lora", "train.learning_rate=0.001", *LONG)
    found = []
    for tokens in (1, 100, 2048):
        output = tmp_path / str(tokens)
        train(run_config(tiny_model, tiny_data, output, *settings, f"compute.micro_batch_tokens={tokens}"))
        found.append([event["loss"] for event in read_events(output / "events.jsonl") if event["event"] == "StepDone"])
    assert found[0] == pytest.approx(found[2], abs=1e-5)
    assert found[1] == pytest.approx(found[2], abs=1e-5)


def test_threads_of_the_process_are_as_before(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1", "compute.threads=1"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# -------------------------------------------------------------------------------------------------------------- resume


def stopping_after(step: int) -> Any:
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += 1
        return seen >= step

    return stop


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("stops", [(1,), (3,), (5,), (1, 2, 1)])
def test_a_run_stopped_and_resumed_is_the_run_never_stopped(
    method: str, stops: tuple[int, ...], finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    config = run_config(
        tiny_model, tiny_data, tmp_path / "run", *SETTINGS[method], *LONG, "train.save_every=100", "train.keep=9"
    )
    for number, after in enumerate(stops):
        with pytest.raises(Interrupted):
            train(config, resume=number > 0, stop=stopping_after(after))
    result = train(config, resume=True)
    expected = finished[method]
    assert weights(tmp_path / "run", method) == weights(expected.output, method)
    assert (result.progress.step, result.progress.tokens) == (6, expected.progress.tokens)
    assert (result.progress.best_step, result.progress.best_loss) == (
        expected.progress.best_step, expected.progress.best_loss,
    )  # fmt: skip
    theirs, ours = (
        load_file(folder / "checkpoints" / "step-000006" / "optimizer.safetensors")
        for folder in (expected.output, tmp_path / "run")
    )
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert tree(tmp_path / "run")["loss.svg"] == tree(expected.output)["loss.svg"]


@pytest.mark.parametrize("method", SETTINGS)
def test_a_complete_run_may_be_resumed_and_nothing_changes(
    method: str, finished: dict[str, RunResult], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[method].output, output)
    (output / WEIGHTS[method]).unlink()
    result = train(run_config(tiny_model, tiny_data, output, *SETTINGS[method], *LONG), resume=True)
    assert result.progress.step == 6
    assert weights(output, method) == weights(finished[method].output, method)


def killed_and_resumed(command_line: CommandLine, argv: list[str], output: Path, moments: list[float]) -> int:
    """Kill the run at each moment, resuming after each, and let it end; returns how many kills hit it at work."""

    def resume() -> list[str]:
        return ["--resume"] if any((output / "checkpoints").glob("step-*")) else []

    hits = 0
    for moment in moments:
        ended = command_line.run(*argv, *resume(), after=moment)
        assert ended.code in (0, -signal.SIGKILL), ended.err
        hits += ended.code == -signal.SIGKILL
    ended = command_line.run(*argv, *resume())
    assert ended.code == 0, ended.err
    assert [path.name for path in output.rglob(".partial-*")] == []
    for folder in (output / "checkpoints").iterdir():
        assert verify(folder) is None
    return hits


@dataclass
class Killing:
    """Runs of every method in turn, killed at random instants of the time that they take."""

    command_line: CommandLine
    model: Path
    data: Path
    root: Path
    expected: dict[str, RunResult]

    def until(self, hits: int, seed: int) -> None:
        """Go on until so many kills have hit a run at work; a kill may come late on a machine that is in a hurry."""
        source = random.Random(seed)
        seconds = {method: self._seconds(method) for method in SETTINGS}
        hit = number = 0
        while hit < hits:
            assert number < 5 * hits, f"of {number} runs only {hit} were killed at work"
            method = list(SETTINGS)[number % 3]
            output = self.root / f"{number}"
            argv = options(self.model, self.data, output, *SETTINGS[method], *LONG)
            moments = [source.uniform(0.02, 1.0) * seconds[method] for _ in range(1 + number % 3)]
            hit += killed_and_resumed(self.command_line, argv, output, moments)
            assert weights(output, method) == weights(self.expected[method].output, method)
            steps = [e["step"] for e in read_events(output / "events.jsonl") if e["event"] == "StepDone"]
            assert set(steps) == set(range(1, 7))
            shutil.rmtree(output)
            number += 1

    def _seconds(self, method: str) -> float:
        argv = options(self.model, self.data, self.root / method, *SETTINGS[method], *LONG)
        begun = time.perf_counter()
        assert self.command_line.run(*argv).code == 0
        return time.perf_counter() - begun


@pytest.fixture
def killing(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path, finished: dict[str, RunResult]
) -> Killing:
    # The first run waits for the forking process to import everything: no measure of a run.
    command_line.run("--version")
    return Killing(command_line, tiny_model, tiny_data, tmp_path, finished)


def test_a_run_killed_at_random_instants_resumes_to_the_same_bytes(killing: Killing) -> None:
    killing.until(9, seed=0)


@pytest.mark.slow
def test_a_run_killed_at_many_more_instants_resumes_to_the_same_bytes(killing: Killing) -> None:
    killing.until(60, seed=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_and_code_130(
    number: signal.Signals, command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("method=lora", "lora.dropout=0.1", "train.steps=40", "train.save_every=1000")
    output = tmp_path / "run"
    argv = options(tiny_model, tiny_data, output, *settings)
    ended = command_line.run(*argv, when=output / "events.jsonl", after=0.15, sent=number)
    assert ended.code == 130, ended.err
    assert "stopping after this step; once more to stop at once" in ended.err
    assert "go on with --resume" in ended.err
    assert "Traceback" not in ended.err
    (folder,) = (output / "checkpoints").iterdir()
    assert verify(folder) is None
    assert command_line.run(*argv, "--resume").code == 0
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    assert weights(output, "lora") == weights(tmp_path / "whole", "lora")


def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stays(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    argv = options(tiny_model, tiny_data, output, "train.steps=100000", "train.save_every=5", "train.keep=1000000")
    # The handler is ours while the run is at work; two signals in a row arrive within one step.
    process = subprocess.Popen(
        [sys.executable, "-m", "veneer", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(list(output.glob("checkpoints/step-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.001)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    folders = sorted(output.glob("checkpoints/step-*"))
    assert len(folders) >= 2
    assert all(verify(folder) is None for folder in folders)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_existing_run_is_not_overwritten(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = finished["lora"].output
    before = tree(output)
    with pytest.raises(OutputError, match="already holds a run; go on with it by --resume"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG))
    assert tree(output) == before


def test_resuming_where_nothing_is_starts(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS["lora"], *LONG)
    train(config, resume=True)
    assert weights(tmp_path / "run", "lora") == weights(finished["lora"].output, "lora")


@pytest.mark.parametrize("named", [("--epochs", "3"), ("--steps", "6"), ("--set", "train.epochs=3"), ()])
def test_the_command_that_started_a_run_goes_on_with_it(
    named: tuple[str, ...], finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path,
    command_line: CommandLine,
) -> None:  # fmt: skip
    output = tmp_path / "run"
    settings = [text for pair in (("--set", one) for one in ("lora.rank=4", "lora.alpha=8", "lora.dropout=0.1",
                "train.learning_rate=0.01", "compute.dtype=float32", "compute.threads=1", "train.save_every=1",
                "train.eval_every=2")) for text in pair]  # fmt: skip
    argv = ["train", "--model", str(tiny_model), "--data", str(tiny_data), "--output", str(output), "--method", "lora",
            "--held-out", "0.2", "--device", "cpu", *settings]  # fmt: skip
    started = command_line.run(
        *argv, *(named or ("--epochs", "3")), "--resume", when=output / "checkpoints" / "step-000001" / "manifest.json"
    )
    assert started.code in (0, -signal.SIGKILL), started.err
    ended = command_line.run(*argv, *named, "--resume")
    assert ended.code == 0, ended.err
    assert weights(output, "lora") == weights(finished["lora"].output, "lora")
    again = command_line.run(*argv, *named, "--resume")
    assert again.code == 0, again.err
    assert weights(output, "lora") == weights(finished["lora"].output, "lora")


def test_a_run_can_be_made_longer_and_is_reproduced(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS["lora"], *LONG, "train.save_every=100")
    train(config)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 4.5})})
    said: list[Event] = []
    with pytest.raises(Interrupted):
        train(longer, resume=True, stop=stopping_after(1), subscribers=[said.append])
    assert any("made longer: 9 steps in place of 6" in event.message for event in said if isinstance(event, Note))
    result = train(longer, resume=True)
    assert result.progress.step == 9
    rates = {
        e["step"]: e["learning_rate"]
        for e in read_events(tmp_path / "run" / "events.jsonl")
        if e["event"] == "StepDone"
    }
    whole = train(run_config(tiny_model, tiny_data, tmp_path / "whole", *SETTINGS["lora"], *LONG, "train.epochs=4.5"))
    theirs = {
        e["step"]: e["learning_rate"] for e in read_events(whole.output / "events.jsonl") if e["event"] == "StepDone"
    }
    assert {step for step in rates if rates[step] == theirs[step]} >= {7, 8, 9}
    assert rates[6] != theirs[6]
    found = reproduce(tmp_path / "run")
    assert found.same, found.lines()


def test_a_run_cannot_be_made_shorter(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    with pytest.raises(CheckpointError, match=r"train\.steps: 6 then, 4 now"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG, "train.epochs=2"), resume=True)


def test_a_run_killed_in_its_first_save_may_start_again(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    # Neither "holds a run" nor "nothing to resume": a folder with half a checkpoint in it is a fresh one.
    half = tmp_path / "run" / "checkpoints" / ".partial-77-step-000001"
    half.mkdir(parents=True)
    (half / "state.json").write_text("{")
    (tmp_path / "run" / "events.jsonl").write_text('{"event": "StepDone", "step": 900, "loss": 99.0}\n{"event": "St')
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2"))
    assert not half.exists()
    steps = [e["step"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "StepDone"]
    assert steps == [1, 2]


def test_every_changed_setting_and_changed_data_is_listed(
    finished: dict[str, RunResult], tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    edited = write_rows(tmp_path / "edited.jsonl", [*rows(19), rows(20, seed=5)[-1]])
    before = tree(output / "checkpoints")
    changes = ("lora.rank=8", "train.learning_rate=0.5", "train.seed=4", "lora.dropout=0.2")
    with pytest.raises(CheckpointError) as caught:
        train(run_config(tiny_model, edited, output, *LONG, *changes), resume=True)
    message = str(caught.value)
    for line in (
        "lora.rank: 4 then, 8 now", "train.learning_rate: 0.01 then, 0.5 now", "train.seed: 0 then, 4 now",
        "lora.dropout: 0.1 then, 0.2 now", "data digest: ",
    ):  # fmt: skip
        assert line in message
    assert message.count("\n  - ") == 5
    assert tree(output / "checkpoints") == before


@pytest.mark.parametrize("change", ["train.epochs=2", "method=qlora", "compute.dtype=bfloat16", "data.max_length=40"])
def test_no_changed_setting_is_let_through(
    change: str, finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    with pytest.raises(CheckpointError, match="belongs to a run with other settings"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG, change), resume=True)


def test_a_base_model_that_changed_is_found_and_one_that_moved_is_not_minded(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "model"
    shutil.copytree(tiny_model, moved)
    config = run_config(moved, tiny_data, tmp_path / "run", "train.steps=3")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    write_model(tmp_path / "other", seed=9)
    shutil.copy(tmp_path / "other" / "model.safetensors", moved / "model.safetensors")
    with pytest.raises(CheckpointError, match="model digest"):
        train(config, resume=True)
    resumed = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3"), resume=True)
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", "train.steps=3"))
    assert weights(resumed.output, "lora") == weights(tmp_path / "whole", "lora")


def test_a_change_in_the_middle_of_a_base_is_refused_before_a_checkpoint_is_written(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of the ends alone, by which a resumption starts at once, do not see it; the whole one does."""
    monkeypatch.setattr(files, "SAMPLE_BYTES", 1000)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = run_config(model, tiny_data, tmp_path / "run", "train.steps=4")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 0x10
    (model / "model.safetensors").write_bytes(content)
    before = tree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"(?s)another base model.*- model\.safetensors\n"):
        train(config, resume=True)
    assert tree(tmp_path / "run" / "checkpoints") == before
    assert not (tmp_path / "run" / WEIGHTS["lora"]).exists()


def test_where_and_how_often_may_change(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=4")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    copied = tmp_path / "copy.jsonl"
    shutil.copy(tiny_data, copied)
    changes = ("train.steps=4", "train.keep=7", "train.save_every=3")
    assert train(run_config(tiny_model, copied, tmp_path / "elsewhere", *changes), resume=True).progress.step == 4


def test_two_runs_into_one_folder_are_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3")
    refusals = []

    def second(event: Event) -> None:
        if isinstance(event, StepDone):
            with pytest.raises(OutputError, match="another run is writing there") as caught:
                train(config)
            refusals.append(caught.value)

    train(config, subscribers=[second])
    assert len(refusals) == 3
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", "train.steps=3"))
    assert weights(tmp_path / "run", "lora") == weights(tmp_path / "whole", "lora")


@pytest.mark.parametrize("method", SETTINGS)
def test_the_folder_of_the_base_model_is_never_the_output(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (tmp_path / "link").symlink_to(model)
    before = tree(model)
    for output in (model, tmp_path / "link", model / ".." / "model"):
        with pytest.raises(OutputError, match="is the folder of the base model"):
            train(run_config(model, tiny_data, output, *SETTINGS[method]))
    assert tree(model) == before


@pytest.mark.parametrize(
    ("assignments", "error", "message"),
    [
        (("model=/no/such/model",), ModelError, "does not exist"),
        (("data.file=/no/such/rows.jsonl",), DataError, "/no/such/rows.jsonl"),
        (("data.eval_file=/no/such/eval.jsonl",), DataError, "/no/such/eval.jsonl"),
        (("lora.rank=100000", "lora.init=pissa_fast"), AdapterError, "rank 100000 exceeds"),
        (("lora.target_modules=[q_prj]",), AdapterError, "did you mean 'q_proj'"),
        (("compute.device=gpu",), ConfigError, "use auto, cpu, cuda"),
        (("data.max_length=5",), DataError, "no row is left to train on"),
        (("data.held_out=0.99",), DataError, "leaves none to train on"),
        (("train.epochs=1e-12",), ConfigError, "makes no step"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    assignments: tuple[str, ...], error: type[Exception], message: str, tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *assignments))
    # Nothing that was refused stands in the way of the next attempt.
    assert train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1")).progress.step == 1


# ---------------------------------------------------------------------------------------------------------------- data


def test_rows_longer_than_the_context_are_reported(tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    data = write_rows(tmp_path / "rows.jsonl", rows(20))
    seen: list[Event] = []
    train(run_config(model, data, tmp_path / "run", "train.steps=1"), subscribers=[seen.append])
    (note,) = [e.message for e in seen if isinstance(e, Note) and "context" in e.message]
    long = [row for row in examples(tiny_model, data) if len(row.tokens) > 40]
    assert 0 < len(long) < 20
    assert note.startswith(f"{len(long)} rows are longer than the model's context of 40 tokens")


# -------------------------------------------------------------------------------------------------------------- result


def logits(folder_or_model: Any, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return folder_or_model(input_ids=torch.tensor([text])).logits[0]  # type: ignore[no-any-return]


def our_logits(result: RunResult, text: list[int]) -> torch.Tensor:
    model = result.model.eval()
    with torch.no_grad():
        hidden = model.hidden(torch.tensor(text), torch.arange(len(text)), PackedAttention([len(text)]))
        return model.logits(hidden)


def test_the_adapter_gives_the_same_logits_in_peft(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path
) -> None:
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    text = examples(tiny_model, tiny_data)[0].tokens.tolist()
    before = logits(base, text)
    model = PeftModel.from_pretrained(base, finished["lora"].output).eval()
    found = logits(model, text)
    assert (found - our_logits(finished["lora"], text)).abs().max() < 1e-5
    assert (found - before).abs().max() > 0.1


def test_the_whole_model_gives_the_same_logits_in_transformers(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path
) -> None:
    output = finished["full"].output
    text = examples(tiny_model, tiny_data)[0].tokens.tolist()
    model = LlamaForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
    assert (logits(model, text) - our_logits(finished["full"], text)).abs().max() < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer("a parcel")["input_ids"] == open_checkpoint(tiny_model).tokenizer().encode("a parcel")
    assert tokenizer.chat_template == open_checkpoint(tiny_model).tokenizer().chat_template


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_base_is_not_changed_by_training(method: str, finished: dict[str, RunResult], tiny_model: Path) -> None:
    from veneer.load import WeightForm

    form = WeightForm.QUANTIZED if method == "qlora" else WeightForm.FROZEN
    fresh = load_model(open_checkpoint(tiny_model), form=form, dtype=torch.float32)
    trained = {
        name.replace(".base.", "."): tensor
        for name, tensor in finished[method].model.state_dict().items()
        if "lora_" not in name
    }
    assert trained.keys() == fresh.state_dict().keys()
    assert all(torch.equal(trained[name], tensor) for name, tensor in fresh.state_dict().items())


def test_the_base_files_are_not_changed_by_training(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    before = tree(tiny_model)
    for method, settings in SETTINGS.items():
        train(run_config(tiny_model, tiny_data, tmp_path / method, *settings, "train.steps=1"))
    assert tree(tiny_model) == before


def test_all_weights_move_in_full_training(finished: dict[str, RunResult], tiny_model: Path) -> None:
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(finished["full"].output / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name].float(), after[name])] == []


def test_the_best_checkpoint_is_the_one_with_the_lowest_loss_and_is_a_whole_result(
    finished: dict[str, RunResult], tiny_model: Path
) -> None:
    result = finished["lora"]
    evaluated = [e for e in read_events(result.output / "events.jsonl") if e["event"] == "Evaluated"]
    assert [e["step"] for e in evaluated] == [2, 4, 6]
    lowest = min(evaluated, key=lambda e: float(str(e["loss"])))
    assert result.best == result.output / "checkpoints" / f"step-{lowest['step']:06d}"
    assert result.progress.best_loss == lowest["loss"]
    assistant = open_assistant(str(tiny_model), adapter=result.best)
    assert assistant.adapter is not None


def test_a_checkpoint_of_a_4_bit_run_opens_over_a_4_bit_base(
    finished: dict[str, RunResult], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veneer.assistant import recorded_run

    run = finished["qlora"].output
    for folder in (run, run / "checkpoints" / "step-000006"):
        recorded = recorded_run(folder)
        assert recorded is not None
        assert recorded.method is Method.QLORA
    monkeypatch.chdir(run / "checkpoints" / "step-000006")
    assert recorded_run(Path(".")) is not None
    assert recorded_run(run / "checkpoints") is None
    assert recorded_run(None) is None


@pytest.mark.parametrize("method", SETTINGS)
def test_what_a_run_leaves_behind_can_be_read(method: str, finished: dict[str, RunResult]) -> None:
    output = finished[method].output
    root = ElementTree.parse(output / "loss.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall("{*}polyline")) == 2  # steps and evaluations; a mean of so few would hide them
    lines = (output / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert kinds.count("StepDone") == 6
    assert kinds.index("RunStarted") < kinds.index("StepDone")
    assert kinds[-1] == "RunFinished"
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["step"], summary["best_loss"]) == (6, finished[method].progress.best_loss)
    assert parse(read_yaml(output / "config.yaml"), where="x").method.value == method
    assert [path.name for path in output.rglob(".partial*")] == []


# -------------------------------------------------------------------------------------------------- disks and folders

FULL_DISK = """
import hashlib, json, subprocess
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", "/mnt"], check=True)
from veneer.config import parse
from veneer.config_values import read_yaml
from veneer.errors import OutputError
from veneer.training.checkpoint import verify
from veneer.training.run import train
config = parse(read_yaml(Path({config!r})), where="x")
error = None
try:
    train(config)
except OutputError as caught:
    error = [str(caught), caught.exit_code]
steps = sorted(p.name for p in Path("/mnt/run/checkpoints").iterdir())
faults = [verify(Path("/mnt/run/checkpoints") / s) for s in steps]
subprocess.run(["mount", "-o", "remount,size=64m", "/mnt"], check=True)
train(config, resume=True)
digest = hashlib.sha256(Path("/mnt/run/adapter_model.safetensors").read_bytes()).hexdigest()
print(json.dumps([error, steps, faults, digest]))
"""


def mounted(code: str) -> Any:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces need root")
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_disk_that_fills_up_costs_nothing_that_was_complete(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    import hashlib

    settings = ("train.steps=24", "train.save_every=2", "train.keep=50")
    config = run_config(tiny_model, tiny_data, Path("/mnt/run"), *settings)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    error, steps, faults, digest = mounted(FULL_DISK.format(config=str(tmp_path / "config.yaml")))
    assert error is not None
    assert error[1] == 2
    assert "No space left on device" in error[0]
    assert len(steps) >= 2
    assert all(name.startswith("step-") for name in steps)
    assert faults == [None] * len(steps)
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    assert hashlib.sha256(weights(tmp_path / "whole", "lora")).hexdigest() == digest


def test_a_read_only_output_is_refused_before_the_model_is_touched(tiny_data: Path) -> None:
    code = f"""
import json, subprocess, time
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", "/mnt"], check=True)
from veneer.config import parse
from veneer.errors import OutputError
from veneer.training.run import train
config = parse({{"model": "/no/such/model", "output": "/mnt/run", "data": {{"file": {str(tiny_data)!r}}}}}, where="x")
begun = time.perf_counter()
try:
    train(config)
except OutputError as error:
    print(json.dumps([str(error), time.perf_counter() - begun]))
"""
    message, seconds = mounted(code)
    assert "Read-only file system" in message
    assert "/mnt/run" in message
    assert seconds < 2


def test_rows_that_were_left_out_are_listed_in_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows(4), {"text": 5}, {"messages": []}])
    config = run_config(tiny_model, data, tmp_path / "out", "data.bad_rows=skip", "train.steps=1")
    train(config)
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped-rows.jsonl").read_text().splitlines()]
    assert listed == [
        {"where": f"{data}:5", "reason": "text must be a string, not a number"},
        {"where": f"{data}:6", "reason": "the conversation is empty"},
    ]
    train(run_config(tiny_model, write_rows(tmp_path / "good.jsonl", rows(4)), tmp_path / "good", "train.steps=1"))
    assert not (tmp_path / "good" / "skipped-rows.jsonl").exists()
