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
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from helpers.models.tiny import CommandLine, examples, rows, run_config, tree, write_rows
from helpers.run_folders.run_logs import read_events
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import LONG, SETTINGS, options, stopping_after, weights
from veneer.assistant.load import open_assistant
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.diagnosis.probe import int8_reason
from veneer.enums import Method
from veneer.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
)
from veneer.events import Event, Level, Note, RunStarted
from veneer.io.checkpoint import open_checkpoint
from veneer.model.attention import PackedAttention
from veneer.native.processor import AMX_FLAG
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.runtime.signals import SIGNALS
from veneer.training.folder.checkpoint import verify
from veneer.training.run import train
from veneer.training.session import RunResult

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


@pytest.mark.parametrize("given", [(), ("compute.threads=2",)])
def test_a_run_goes_on_with_the_threads_that_it_began_with(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, given: tuple[str, ...]
) -> None:
    """Its configuration leaves them open, and the machine has others now; others that are asked for are refused."""
    before, asked = torch.get_num_threads(), iter([False, True])
    settings = ("train.steps=4", "compute.threads=null")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    try:
        torch.set_num_threads(1)
        with pytest.raises(Interrupted):
            train(config, stop=lambda: next(asked))
        torch.set_num_threads(2)
        if given:
            with pytest.raises(CheckpointError, match=r"compute\.threads"):
                train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings, *given), resume=True)
            return
        train(config, resume=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert RunFolder(tmp_path / "run").config().compute.threads == 1  # type: ignore[union-attr]


def trained(checkpoint: Path) -> dict[str, bytes]:
    """The weights and the optimiser's state of a checkpoint. Its other files tell how long the steps took."""
    return {name: content for name, content in tree(checkpoint).items() if name.endswith(".safetensors")}


@pytest.mark.scenario(number=6)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_with_a_checkpoint_and_its_own_code(
    number: signal.Signals, command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    # More steps than there is time for: the signal comes before the last one, however late it comes.
    endless = ("train.steps=1000000", "train.save_every=1000000", "train.warmup=0")
    settings = ("method=lora", "lora.dropout=0.1", *endless)
    output = tmp_path / "run"
    argv = options(tiny_model, tiny_data, output, *settings)
    ended = command_line.run(*argv, when=output / "events.jsonl", holds="StepDone", sent=number)
    assert ended.code == 128 + number, ended.err
    assert f"{number.name}: stopping after this micro-batch; press Ctrl-C again to stop at once" in ended.err
    assert "continue with --resume" in ended.err
    assert "Traceback" not in ended.err
    (step,) = RunFolder(output).checkpoint_steps()
    assert verify(RunFolder(output).checkpoint(step)) is None
    for run, more in ((output, 3), (tmp_path / "whole", step + 3)):
        with pytest.raises(Interrupted):
            train(run_config(tiny_model, tiny_data, run, *settings), resume=True, stop=stopping_after(more))
    ours, theirs = (trained(RunFolder(run).checkpoint(step + 3)) for run in (output, tmp_path / "whole"))
    assert ours.keys() == {"adapter_model.safetensors", "optimizer.safetensors"}
    assert ours == theirs


@pytest.mark.scenario(number=7)
def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stays(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    argv = options(tiny_model, tiny_data, output, "train.steps=100000", "train.save_every=5", "train.keep=1000000")
    # The handler is ours while the run is at work; two signals in a row arrive within one step.
    process = subprocess.Popen(
        [sys.executable, "-m", "veneer", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 300
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
    assert started.code == -signal.SIGKILL, started.err
    ended = command_line.run(*argv, *named, "--resume")
    assert ended.code == 0, ended.err
    assert weights(output, "lora") == weights(finished["lora"].output, "lora")
    again = command_line.run(*argv, *named, "--resume")
    assert again.code == 0, again.err
    assert weights(output, "lora") == weights(finished["lora"].output, "lora")


def test_a_run_can_be_made_longer_and_is_reproduced(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS["lora"], *LONG, "train.save_every=100")
    train(config)
    longer = config.changed("train", {"epochs": 4.5})
    said: list[Event] = []
    with pytest.raises(Interrupted):
        train(longer, resume=True, stop=stopping_after(1), emit=said.append)
    assert any(
        "the run is now longer: 9 steps instead of 6" in event.message for event in said if isinstance(event, Note)
    )
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
    from veneer.run_folder import recorded_run

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


def test_rows_that_were_left_out_are_listed_in_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows(4), {"text": 5}, {"messages": []}])
    config = run_config(tiny_model, data, tmp_path / "out", "data.bad_rows=skip", "train.steps=1")
    train(config)
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped-rows.jsonl").read_text().splitlines()]
    assert listed == [
        {"where": f"{data}:5", "reason": "text must be a string, not a number"},
        {"where": f"{data}:6", "reason": "the conversation is empty"},
    ]
    # A run that was killed before its first checkpoint leaves such a list, which is not that of the next one.
    left = tmp_path / "good" / "skipped-rows.jsonl"
    left.parent.mkdir()
    left.write_text("{}\n")
    train(run_config(tiny_model, write_rows(tmp_path / "good.jsonl", rows(4)), tmp_path / "good", "train.steps=1"))
    assert not left.exists()


@pytest.mark.parametrize("cache", ["never", "always"])
def test_pieces_of_a_text_are_one_row_of_the_record(cache: str, tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "late parcel " * 60}, {"text": "a crate"}])
    again = write_rows(tmp_path / "eval.jsonl", [{"text": "blue parcel " * 60}])
    settings = ("data.max_length=50", "data.overlong=split", f"data.cache={cache}", f"data.eval_file={again}")
    events: list[Event] = []
    settings = (*settings, f"data.cache_dir={tmp_path / 'tokens'}", "train.steps=1")
    train(run_config(tiny_model, data, tmp_path / "run", *settings), emit=events.append)
    said = json.loads((tmp_path / "run" / "run.lock").read_text())["data"]
    assert (said["rows"], said["evaluation_rows"]) == (2, 1)
    assert said["examples"] > 3
    assert said["evaluation_examples"] > 2
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.examples == 2
    (note,) = [e.message for e in events if isinstance(e, Note) and e.message.startswith("2 training rows in ")]
    assert note.startswith(f"2 training rows in {said['examples']} examples: ")


# ------------------------------------------------------------------------------------------------------ early stopping


@pytest.fixture(scope="module")
def rising(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings of a run whose evaluation loss first falls, and rises from its seventh step on: nothing that it learns
    helps with letters drawn at random. So it rises on every processor, whatever the last digits are."""
    source = random.Random(3)
    strangers = [conversation("?", "".join(source.choices("countword", k=12))) for _ in range(6)]
    file = write_rows(tmp_path_factory.mktemp("rising") / "strangers.jsonl", strangers)
    rate = ("train.steps=30", "train.learning_rate=0.02", "train.schedule=constant")
    return ("method=lora", *rate, f"data.eval_file={file}", "train.eval_every=1", "train.save_every=1", "train.keep=30")


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def evaluations(run: RunResult) -> list[tuple[int, float]]:
    events = read_events(run.output / "events.jsonl")
    return [(int(str(e["step"])), float(str(e["loss"]))) for e in events if e["event"] == "Evaluated"]


def ending(losses: list[float], patience: int) -> int:
    """The number of evaluations after which `patience` of them in a row were no new lowest one."""
    for count in range(1, len(losses) + 1):
        if count - 1 - losses.index(min(losses[:count])) >= patience:
            return count
    return len(losses)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path, rising: tuple[str, ...]
) -> RunResult:
    return train(run_config(tiny_model, tiny_data, tmp_path_factory.mktemp("whole") / "run", *rising))


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_a_run_where_the_whole_one_has_stopped_to_improve(
    patience: int, whole: RunResult, rising: tuple[str, ...], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    losses = [loss for _, loss in evaluations(whole)]
    expected = ending(losses, patience)
    assert expected < 30
    seen: list[Event] = []
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *rising, f"train.patience={patience}")
    run = train(config, emit=seen.append)
    assert run.progress.step == expected
    assert evaluations(run) == evaluations(whole)[:expected]
    checkpoint = whole.output / "checkpoints" / f"step-{expected:06d}"
    assert tree(run.output)["adapter_model.safetensors"] == tree(checkpoint)["adapter_model.safetensors"]
    (said,) = [one.message for one in seen if isinstance(one, Note) and "train.patience" in one.message]
    assert f"after step {expected} of 30" in said
    # To go on with it changes nothing, and the run can be made again.
    before = tree(run.output / "checkpoints")
    assert train(config, resume=True).progress.step == expected
    assert tree(run.output / "checkpoints") == before
    assert reproduce(run.output).same


def test_the_best_weights_are_published_where_that_is_asked_for_and_it_is_said(
    whole: RunResult, rising: tuple[str, ...], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    seen: list[Event] = []
    asked = ("train.patience=3", "train.publish=best")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *rising, *asked)
    run = train(config, emit=seen.append)
    best = run.progress.best_step
    assert best is not None
    assert best < run.progress.step
    assert run.best is not None
    published = load_file(run.output / "adapter_model.safetensors")
    kept = load_file(run.best / "adapter_model.safetensors")
    last = load_file(run.output / "checkpoints" / f"step-{run.progress.step:06d}" / "adapter_model.safetensors")
    assert_same_tensors(published, kept)
    assert not all(torch.equal(published[name], last[name]) for name in published)
    # So does the model in memory.
    assert all(any(torch.equal(p.cpu(), value) for value in kept.values()) for p in run.trainable.named().values())
    assert any(isinstance(one, Note) and f"the weights after step {best}" in one.message for one in seen)
    summary = json.loads((run.output / "summary.json").read_text())
    assert (summary["published_step"], summary["step"]) == (best, run.progress.step)
    lock = json.loads((run.output / "run.lock").read_text())
    assert lock["config"]["train"]["publish"] == "best"
    assert reproduce(run.output).same
    assert json.loads((whole.output / "summary.json").read_text())["published_step"] == 30


def test_a_run_with_patience_that_was_stopped_goes_on_counting(
    tiny_model: Path, tiny_data: Path, whole: RunResult, rising: tuple[str, ...], tmp_path: Path
) -> None:
    settings = (*rising, "train.patience=3")
    expected = ending([loss for _, loss in evaluations(whole)], 3)
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(expected - 1))
    assert train(config, resume=True).progress.step == expected
    with pytest.raises(CheckpointError, match=r"train\.patience: 3 then, 5 now"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *rising, "train.patience=5"), resume=True)


def test_what_goes_by_the_evaluation_loss_needs_rows_for_it(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.patience=2", "train.publish=best"))
    assert str(caught.value).count("has no rows for them; give data.held_out or data.eval_file") == 2


def test_the_last_weights_are_published_with_a_warning_where_no_evaluation_has_the_metric(
    tiny_model: Path, tmp_path: Path
) -> None:
    good = [{"prompt": f"{n}?", "completion": f"answer {n}", "label": True} for n in range(12)]
    settings = (
        "objective=kto", "train.best_metric=rewards/rejected", "train.publish=best", "data.held_out=0.3",
        "train.steps=2", "train.eval_every=1",
    )  # fmt: skip
    seen: list[Event] = []
    config = run_config(tiny_model, write_rows(tmp_path / "rows.jsonl", good), tmp_path / "run", *settings)
    assert train(config, emit=seen.append).progress.best_step is None
    (said,) = (one for one in seen if isinstance(one, Note) and "the result holds" in one.message)
    assert said.level is Level.WARNING
    assert said.message == (
        "the result holds the last weights, despite train.publish: rewards/rejected has not been a number in 2 "
        "evaluations"
    )


def test_best_weights_that_are_gone_are_not_replaced_in_silence(
    tiny_model: Path, tiny_data: Path, rising: tuple[str, ...], tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *rising, "train.patience=3", "train.publish=best")
    run = train(config)
    assert run.best is not None
    shutil.rmtree(run.best)
    with pytest.raises(CheckpointError, match=r"train\.publish=last"):
        train(config, resume=True)
    last = run_config(tiny_model, tiny_data, tmp_path / "run", *rising, "train.patience=3", "train.publish=last")
    assert train(last, resume=True).progress.step == run.progress.step


@pytest.mark.parametrize(
    ("dtype", "flags", "said"),
    [("bfloat16", {AMX_FLAG}, "slower"), ("bfloat16", set(), "is fast"), ("float32", {AMX_FLAG}, "is fast")],
)
def test_products_in_8_bits_are_called_fast_only_where_they_are(
    dtype: str, flags: set[str], said: str, tiny_model: Path, tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if reason := int8_reason(torch.device("cpu")):
        pytest.skip(reason)
    monkeypatch.setattr("veneer.training.session.cpu_flags", lambda: flags)
    seen: list[Event] = []
    settings = ("method=lora", "train.steps=1", "compute.products=int8", f"compute.dtype={dtype}")
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings), emit=seen.append)
    (note,) = [one.message for one in seen if isinstance(one, Note) and "8 bits" in one.message]
    assert said in note
