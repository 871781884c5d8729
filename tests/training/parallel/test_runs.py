"""Whole runs in several processes: the bytes of one, whatever happens to them on the way."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from helpers.models.tiny import rows, run_config, write_rows
from helpers.processes.ranks import Ended, Forker
from helpers.rows.preference_rows import pairs
from helpers.run_folders.run_logs import read_events
from helpers.training.training_runs import stopping_after
from veneer.config import to_yaml
from veneer.errors import Interrupted
from veneer.processes.ranks import variables_of
from veneer.run_folder import RunFolder
from veneer.training.evaluations import shown_prompts
from veneer.training.evaluations.best import ANSWERS
from veneer.training.run import train

WEIGHTS = "adapter_model.safetensors"
TIMES = ("time", "seconds", "memory_mb")
COMMON = ("train.lanes=4", "train.epochs=2", "train.save_every=1", "compute.rank_timeout=20")
KINDS: dict[str, tuple[str, ...]] = {
    "lora, dropout, evaluated": ("lora.dropout=0.1", "data.held_out=0.2", "train.eval_every=1"),
    "qlora, dora": ("method=qlora", "lora.variant=dora", "train.optimizer=adamw8bit"),
    "uneven steps, clipped, recomputed": (
        "train.tokens_per_step=130", "train.clip=0.01", "compute.recompute=layers", "lora.dropout=0.2",
        "compute.micro_batch_tokens=64",
    ),
}  # fmt: skip
MORE: dict[str, tuple[str, ...]] = {
    "pissa, two ranks": ("lora.init=pissa", "lora.rank_pattern={down_proj: 2}"),
    "loftq": ("method=qlora", "lora.init=loftq"),
    "eva, b alone": ("lora.init=eva", "lora.factors=b"),
    "both ends": ("lora.target_modules=[q_proj, embed_tokens, lm_head]",),
    "saved modules": ("lora.modules_to_save=[embed_tokens, norm]",),
    "new tokens over 4 bits": ("method=qlora", "lora.new_tokens=[crate]", "lora.trainable_tokens=[5]"),
    "skips bad steps, best": (
        "train.skip_bad_steps=true", "data.held_out=0.3", "train.publish=best", "train.patience=2", "train.epochs=6",
    ),
    "full": ("method=full", "train.learning_rate=0.001"),
    "lion, weight decay, plus": ("train.optimizer=lion", "train.weight_decay=0.1", "train.lora_plus_ratio=4"),
    "transformers": ("backend=hf", "lora.dropout=0.1"),
}  # fmt: skip


SLOW_CHECKPOINTS = """
import os, sys, time
from veneer.cli import main
from veneer.training.folder import checkpoint

def slow(file):
    time.sleep(12 if file.name.startswith("optimizer") else 0)
    return read(file)

read = checkpoint.sha256
if os.environ["RANK"] == "0":
    checkpoint.sha256 = slow
main(sys.argv[1:])
"""
"""The command line, with a disk on which rank 0's checkpoints take 12 s."""


class Runs:
    """Runs of one configuration, alone and in processes."""

    def __init__(self, forker: Forker, model: Path, data: Path, folder: Path, *assignments: str):
        self.forker, self.model, self.data, self.folder = forker, model, data, folder
        self.assignments = (*COMMON, *assignments)

    def alone(self, name: str = "alone") -> bytes:
        """The bytes of a run in this process."""
        output = self.folder / name
        train(run_config(self.model, self.data, output, *self.assignments))
        return self.weights(name)

    def command(self, name: str, *more: str) -> list[str]:
        config = run_config(self.model, self.data, self.folder / name, *self.assignments)
        file = self.folder / f"{name}.yaml"
        file.write_text(to_yaml(config))
        return ["train", "--config", str(file), *more]

    def spread(self, name: str, world: int, *more: str, restarts: int = 0) -> list[Ended]:
        return self.forker.run(world, self.command(name, *more), restarts=restarts)

    def weights(self, name: str) -> bytes:
        kinds = RunFolder(self.folder / name).weights
        (file,) = kinds.values()
        return file.read_bytes()

    def steps(self, name: str) -> int:
        """The last step that a run has told of."""
        file = self.folder / name / "events.jsonl"
        if not file.is_file():
            return 0
        return max((int(str(one["step"])) for one in read_events(file) if one["event"] == "StepDone"), default=0)


def succeeded(ended: Sequence[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), "\n".join(one.err for one in ended)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_bytes_of_one(
    kind: str, forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, *KINDS[kind])
    expected = runs.alone()
    ended = runs.spread("two", 2)
    succeeded(ended)
    assert runs.weights("two") == expected
    assert "4 lanes on 2 processes" in ended[0].err
    assert (ended[1].out, ended[1].err) == ("", "")  # rank 0 speaks
    losses = [
        [(one["step"], one["loss"]) for one in read_events(tmp_path / name / "events.jsonl") if "loss" in one]
        for name in ("alone", "two")
    ]
    assert losses[0] == losses[1]
    left = {path.name for path in (tmp_path / "two").iterdir()} - {"report.html"}
    assert left == {path.name for path in (tmp_path / "alone").iterdir()}


def labels(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": one["prompt"], "completion": one["chosen" if number % 3 else "rejected"], "label": number % 3 > 0}
        for number, one in enumerate(pairs(count))
    ]


@pytest.mark.parametrize(
    "objective", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("kto", "orpo", "cpo", "simpo"))]
)
def test_preferences_in_two_processes_make_the_bytes_of_one(
    objective: str, forker: Forker, tiny_model: Path, tmp_path: Path
) -> None:
    # Rank 0 computes the reference, which the others compare with; KTO's reference point is that of all lanes.
    data = write_rows(tmp_path / "rows.jsonl", labels(14) if objective == "kto" else pairs(14))
    more = ("data.held_out=0.2", "train.eval_every=1", "lora.dropout=0.1")
    runs = Runs(forker, tiny_model, data, tmp_path, f"objective={objective}", *more)
    expected = runs.alone()
    succeeded(runs.spread("two", 2))
    assert runs.weights("two") == expected
    told = [
        [(one["step"], one["loss"], one["metrics"]) for one in read_events(tmp_path / name / "events.jsonl")
         if one["event"] in ("StepDone", "Evaluated")]
        for name in ("alone", "two")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert len(told[0]) >= 4


GRPO = (
    "objective=grpo", "rewards=[{metric: chrf, column: good}]", "grpo.num_generations=3",
    "grpo.max_completion_length=6", "train.examples_per_step=5", "train.learning_rate=0.02",
    "data.held_out=0.2", "train.eval_every=1",
)  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("grpo.num_iterations=2", "grpo.beta=0.1", "train.epochs=1"), id="several steps of one sampling"),
        pytest.param(("grpo.beta=0.05", "grpo.kl_in=reward", "method=qlora"), id="qlora", marks=pytest.mark.slow),
    ],
)
def test_answers_that_two_processes_sample_are_those_of_one_and_so_is_what_they_teach(
    more: tuple[str, ...], forker: Forker, tiny_model: Path, tmp_path: Path
) -> None:
    """Rank 0 judges, and an odd number of prompts is no matter."""
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}: when?", "good": f"the {n} e"} for n in range(12)])
    runs = Runs(forker, tiny_model, data, tmp_path, *GRPO, *more)
    expected = runs.alone()
    ended = runs.spread("two", 2)
    succeeded(ended)
    assert runs.weights("two") == expected
    assert (ended[1].out, ended[1].err) == ("", "")
    told = [
        [{key: value for key, value in one.items() if key not in TIMES}
         for one in read_events(tmp_path / name / "events.jsonl")
         if one["event"] in ("AnswersJudged", "StepDone", "Evaluated")]
        for name in ("alone", "two")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert {one["event"] for one in told[0]} == {"AnswersJudged", "StepDone", "Evaluated"}


@pytest.mark.slow
def test_a_run_that_samples_in_processes_goes_on_where_it_was_stopped(
    forker: Forker, tiny_model: Path, tmp_path: Path
) -> None:
    """Also between two steps that the answers of one sampling serve: rank 0 has them from the checkpoint."""
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}: when?", "good": f"the {n} e"} for n in range(12)])
    runs = Runs(forker, tiny_model, data, tmp_path, *GRPO, "grpo.num_iterations=2", "grpo.beta=0.1")
    expected = runs.alone()
    config = run_config(tiny_model, data, tmp_path / "cut", *runs.assignments)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    succeeded(runs.spread("cut", 2, "--resume"))
    assert runs.weights("cut") == expected
    told = [
        [(one["step"], one["loss"], one["metrics"]) for one in read_events(tmp_path / name / "events.jsonl")
         if one["event"] == "StepDone"]
        for name in ("alone", "cut")
    ]  # fmt: skip
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_reward_that_fails_ends_all_processes_with_its_name(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def broken(completions):\n    raise RuntimeError('no idea')\n", "utf-8")
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}?", "good": "e"} for n in range(12)])
    runs = Runs(forker, tiny_model, data, tmp_path, *GRPO, f"rewards=[{{python: '{tmp_path / 'rewards.py'}:broken'}}]")
    ended = runs.spread("two", 2)
    assert all(one.code for one in ended)
    assert "no idea" in ended[0].err


@pytest.mark.slow
def test_a_reward_model_in_two_processes_has_the_bytes_of_one(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    rows = [row | {"margin": number / 4} for number, row in enumerate(pairs(14))]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    more = ("objective=reward", "data.held_out=0.2", "train.eval_every=1")
    runs = Runs(forker, tiny_model, data, tmp_path, *more)
    expected = runs.alone()
    succeeded(runs.spread("two", 2))
    assert runs.weights("two") == expected


@pytest.mark.slow
def test_samples_are_made_by_one_process_while_the_others_wait(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_prompts, "SHARE", math.inf)  # as in the processes: see `forking`
    sampled = ("train.samples_every=2", 'train.sample_prompts=["late?","what?"]', "lora.dropout=0.1")
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, *sampled)
    expected = runs.alone()
    ended = runs.spread("three", 3)
    succeeded(ended)
    assert runs.weights("three") == expected
    told = [
        [(one["step"], one["prompts"], one["answers"]) for one in read_events(tmp_path / name / "events.jsonl")
         if one["event"] == "SamplesAnswered"]
        for name in ("alone", "three")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert [one[:2] for one in told[0]] == [(step, ["late?", "what?"]) for step in (2, 4, 6)]
    assert [(one.out, one.err) for one in ended[1:]] == [("", "")] * 2


def test_four_and_three_processes_and_one_row(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "lora.dropout=0.1")
    expected = runs.alone()
    for world in (3, 4):  # three do not divide the lanes, which is no matter
        succeeded(runs.spread(str(world), world))
        assert runs.weights(str(world)) == expected
    single = write_rows(tmp_path / "one.jsonl", rows(1))
    runs = Runs(forker, tiny_model, single, tmp_path, "lora.dropout=0.1")
    expected = runs.alone("row")
    succeeded(runs.spread("row-4", 4))  # three of them have nothing to do
    assert runs.weights("row-4") == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", MORE)
def test_every_kind_of_run(kind: str, forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, *MORE[kind])
    expected = runs.alone()
    succeeded(runs.spread("two", 2))
    assert runs.weights("two") == expected


@pytest.mark.slow
def test_answers_and_a_teacher_that_is_asked_before_are_those_of_one_process(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    taught = ("objective=distillation", f"distillation.teacher={tiny_model}", "distillation.top_k=12")
    more = ("data.held_out=0.4", "train.eval_every=1", "train.best_metric=rouge-l", "lora.dropout=0.1")
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, *taught, *more)
    expected = runs.alone()
    succeeded(runs.spread("three", 3))
    assert runs.weights("three") == expected
    told = [
        [(one["step"], one["best"], one["metrics"]) for one in read_events(tmp_path / name / "events.jsonl")
         if one["event"] == "Evaluated"]
        for name in ("alone", "three")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert all(ANSWERS["rouge-l"] in metrics for _, _, metrics in told[0])


def test_lanes_are_recorded_and_one_lane_is_what_it_was(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    plain = train(run_config(tiny_model, tiny_data, tmp_path / "plain", "train.steps=2"))
    lock = json.loads((plain.output / "run.lock").read_text())
    assert lock["config"]["train"]["lanes"] == 1
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "train.lanes=auto", "train.epochs=null", "train.steps=2")
    ended = runs.spread("auto", 2)
    succeeded(ended)
    lock = json.loads((tmp_path / "auto" / "run.lock").read_text())
    assert lock["config"]["train"]["lanes"] == 2
    again = train(run_config(tiny_model, tiny_data, tmp_path / "again", "train.lanes=2", "train.steps=2"))
    assert (again.output / WEIGHTS).read_bytes() == runs.weights("auto")
    assert (plain.output / WEIGHTS).read_bytes() != runs.weights("auto")  # another order of sums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # in 16 bits the factors are rounded ahead of each step
def test_a_run_goes_on_at_another_number_of_processes(
    dtype: str, forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    more = ("lora.dropout=0.1", "train.optimizer=adamw8bit", f"compute.dtype={dtype}")
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, *more)
    expected = runs.alone()
    with pytest.raises(Interrupted):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *runs.assignments), stop=lambda: True)
    assert runs.steps("run") == 1
    # torchrun's restart says nothing of resuming; here at two processes what one has begun.
    ended = runs.spread("run", 2, restarts=1)
    succeeded(ended)
    assert runs.weights("run") == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_any_process_checkpoints_on_all(
    number: signal.Signals, forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "train.epochs=60", "train.save_every=1000")
    started = forker.start(2, runs.command("run"))
    started.when(lambda: runs.steps("run") >= 3)
    started.kill(1, number)
    ended = started.ended()
    assert ended[1].code == 128 + number
    assert ended[0].code == 130  # it was told by the other
    assert ended[1].err == ""
    assert "stopped after step" in ended[0].err
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoint_steps() == [runs.steps("run")]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_others_by_name_and_a_restart_makes_the_same_bytes(
    victim: int, forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "lora.dropout=0.1", "train.epochs=8", "train.save_every=3")
    started = forker.start(2, runs.command("run"))
    started.when(lambda: runs.steps("run") >= 4)
    started.kill(victim)
    ended = started.ended()
    assert ended[victim].code == -signal.SIGKILL
    assert ended[1 - victim].code == 2
    assert f"rank {victim} on " in ended[1 - victim].err
    assert "does not answer any more" in ended[1 - victim].err
    succeeded(runs.spread("run", 2, restarts=1))
    assert runs.weights("run") == runs.alone()


@pytest.mark.repeated
def test_kills_of_any_process_at_any_moment(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path, rounds: int
) -> None:
    # A machine that does much else may keep a process from computing for long, which is not to end the others.
    patient = ("train.epochs=6", "train.save_every=2", "compute.rank_timeout=60")
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "lora.dropout=0.1", *patient)
    expected, source = runs.alone(), random.Random(rounds)
    for number in range(rounds):
        name, world, step = f"run-{number}", source.choice([2, 4]), source.randint(0, 16)
        started = forker.start(world, runs.command(name))
        started.when(lambda name=name, step=step: runs.steps(name) >= step, 600.0)  # type: ignore[misc]
        started.kill(source.randrange(world))
        started.ended()
        succeeded(runs.spread(name, source.choice([1, 2, 4]), restarts=1))
        assert runs.weights(name) == expected


@pytest.mark.slow
def test_a_stopped_process_ends_the_others_within_the_time_out(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tiny_data, tmp_path, "train.epochs=500", "compute.rank_timeout=12")
    started = forker.start(3, runs.command("run"))
    started.when(lambda: runs.steps("run") >= 2)
    started.kill(1, signal.SIGSTOP)
    begun = time.monotonic()
    codes = [started.forks.wait(started.pids[rank]) for rank in (0, 2)]
    assert time.monotonic() - begun <= 12 + 20  # a process that ends takes its time on a busy machine
    # Waked again, it learns why the others have ended.
    started.kill(1, signal.SIGCONT)
    assert [*codes, started.forks.wait(started.pids[1])] == [2, 2, 2]
    said = [file.read_text(encoding="utf-8") for _, file in started.files]
    for text in said:
        assert re.search(r"rank 1 on \S+ does not answer any more", text), text
    assert re.search(r"rank [02] on \S+ has ended the run: rank 1 on", said[1]), said[1]


@pytest.mark.slow
def test_a_checkpoint_that_takes_longer_than_the_time_out_ends_nothing(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "compute.rank_timeout=9")
    settings = tmp_path / "run.yaml"
    settings.write_text(to_yaml(config), encoding="utf-8")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_CHECKPOINTS, "train", "--config", str(settings), "--set", "train.save_every=1"],
            env={**variables_of(rank, 2, store.port, 1), "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [one.communicate(timeout=240)[1] for one in started]
    assert [one.returncode for one in started] == [0, 0], said


def test_what_cannot_spread_is_refused(forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    ended = forker.run(2, ["doctor"])
    assert [one.code for one in ended] == [2, 2]
    assert "`veneer doctor` was started 2 times by a launcher" in ended[0].err
    assert ended[1].err.startswith("error: rank 1 on ")
    runs = Runs(forker, tiny_model, tiny_data, tmp_path)
    ended = forker.run(2, [*runs.command("run"), "--devices", "3"])
    assert "--devices 3 was given, but the launcher started 2 processes" in ended[0].err
    ended = forker.run(2, [*runs.command("limited"), "--time-limit", "1m", "--set", "train.epochs=null"])
    assert "train.time_limit is measured on a single process" in ended[0].err


def test_a_process_that_fails_by_itself_is_named_with_its_reason(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    broken = write_rows(tmp_path / "broken.jsonl", [{"messages": 3}])
    ended = Runs(forker, tiny_model, broken, tmp_path).spread("run", 2)
    assert [one.code for one in ended] == [2, 2]
    assert "messages" in ended[0].err
    assert "rank 0 on" in ended[1].err
    assert "has ended" in ended[1].err
