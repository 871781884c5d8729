"""Whole runs that sample their answers: they learn what rewards say, resume to the byte, and name what fails."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.models.tiny import run_config, write_rows
from helpers.training.training_runs import stopping_after, weights
from veneer.config import RunConfig
from veneer.errors import ConfigError, DataError, Interrupted
from veneer.events import AnswersJudged, Evaluated, Event, RunFinished, StageProgress, StepDone
from veneer.reproduction.run import reproduce
from veneer.training.run import train

FUNCTIONS = """
def letters(completions):
    return [min(1.0, text.count("e") / 2) for text in completions]

calls = 0

def tired(completions):
    global calls
    calls += 1
    if calls > 2:
        raise RuntimeError("tired")
    return letters(completions)

def no_odd_rows(completions, row):
    if any(number % 2 for number in row):
        raise RuntimeError("an odd row")
    return [float(len(text)) for text in completions]
"""
SETTINGS = (
    "objective=grpo", "grpo.max_completion_length=8", "grpo.num_generations=4", "train.examples_per_step=4",
    "train.learning_rate=0.03", "train.warmup=0", "train.schedule=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grpo")
    (path / "rewards.py").write_text(FUNCTIONS, encoding="utf-8")
    rows: list[dict[str, Any]] = [{"prompt": f"{n}: a word{' more' * (n % 5)}?", "row": n} for n in range(20)]
    write_rows(path / "rows.jsonl", rows)
    return path


def config(model: Path, folder: Path, output: Path, *more: str, reward: str = "letters", also: str = "") -> RunConfig:
    rewards = f"rewards=[{{python: '{folder / 'rewards.py'}:{reward}'{also}}}]"
    return run_config(model, folder / "rows.jsonl", output, *SETTINGS, rewards, *more)


def events_of(run: RunConfig, *, resume: bool = False) -> list[Event]:
    seen: list[Event] = []
    train(run, resume=resume, emit=seen.append)
    return seen


def steps_of(seen: list[Event]) -> list[StepDone]:
    return [event for event in seen if isinstance(event, StepDone)]


def test_a_run_learns_what_its_reward_says(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    more = "train.steps=8", "grpo.num_generations=16", "data.held_out=0.2", "train.learning_rate=0.02"
    run = config(tiny_model, folder, tmp_path / "run", *more)
    seen = events_of(run)
    rewards = [step.metrics["reward"] for step in steps_of(seen)]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.3
    first = steps_of(seen)[0]
    assert first.metrics["rewards/letters/mean"] == first.metrics["reward"]
    assert first.metrics["sampling/logp_difference"] < 1e-5
    assert first.metrics["clip_ratio/region_mean"] == 0.0
    assert 0 < first.metrics["completions/mean_length"] <= 8
    assert first.supervised == round(first.metrics["completions/mean_length"] * 4 * 16)
    evaluations = [event for event in seen if isinstance(event, Evaluated)]
    assert all(one.loss == -one.metrics["reward"] for one in evaluations), "less is better"
    shown = [event for event in seen if isinstance(event, AnswersJudged)]
    assert len(shown) == 8
    assert all(one.answers == 64 and list(one.rewards) == sorted(one.rewards, reverse=True) for one in shown)
    told = [(event.stage, event.done, event.total) for event in seen if isinstance(event, StageProgress)]
    assert {("sampling the answers of step 1", 64, 64), ("answering the evaluation prompts", 4, 4)} <= set(told)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("qlora", ()),
        ("lora", ("grpo.num_iterations=3", "grpo.beta=0.1", "grpo.temperature=0.8")),
        ("lora", ("grpo.beta=0.1", "grpo.kl_in=reward", "grpo.baseline=leave_one_out", "grpo.scale_rewards=none",
                  "grpo.loss_type=grpo", "grpo.importance_sampling_level=product", "train.lanes=2")),
        ("full", ("grpo.loss_type=dr_grpo", "grpo.mask_truncated_completions=true")),
    ],
    ids=["qlora", "iterations", "rloo", "full"],
)  # fmt: skip
def test_a_resumed_run_has_the_bytes_of_the_whole_one(
    method: str, more: tuple[str, ...], tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    """Also where it was stopped between two steps that the same answers serve."""
    settings = (f"method={method}", "train.steps=5", "train.save_every=3", *more)
    whole = events_of(config(tiny_model, folder, tmp_path / "whole", *settings))
    run = config(tiny_model, folder, tmp_path / "cut", *settings)
    with pytest.raises(Interrupted):
        train(run, stop=stopping_after(4))
    again = events_of(run, resume=True)
    assert weights(tmp_path / "cut", method) == weights(tmp_path / "whole", method)
    assert [step.metrics for step in steps_of(again)] == [step.metrics for step in steps_of(whole)[4:]]
    if "grpo.num_iterations=3" in more:
        sampled = [event.step for event in whole if isinstance(event, AnswersJudged)]
        assert sampled == [1, 4]
        kls = [step.metrics["kl"] for step in steps_of(whole)]
        assert kls[0] == pytest.approx(0.0, abs=1e-9), "the reference is the policy as it starts"
        assert kls[-1] > 1e-4


def test_a_model_of_transformers_is_sampled_and_trained(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    seen = events_of(config(tiny_model, folder, tmp_path / "run", "train.steps=2", "backend=hf"))
    assert all(step.metrics["sampling/logp_difference"] < 1e-5 for step in steps_of(seen))
    assert all(step.grad_norm > 0 for step in steps_of(seen))


def test_a_run_from_an_adapter_is_held_to_that_adapter(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    """Or to the base, where that is asked for: the first divergence tells which."""
    train(config(tiny_model, folder, tmp_path / "first", "train.steps=3"))
    more = (f"train.from_adapter={tmp_path / 'first'}", "grpo.beta=0.1", "train.steps=2")
    start = steps_of(events_of(config(tiny_model, folder, tmp_path / "start", *more)))
    assert start[0].metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    assert start[1].metrics["kl"] > 0
    base = steps_of(events_of(config(tiny_model, folder, tmp_path / "base", *more, "grpo.reference=base")))
    assert base[0].metrics["kl"] > 1e-3


def test_how_a_step_is_cut_does_not_change_it(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    found = []
    for most in (40, 150, 4096):
        output = tmp_path / str(most)
        train(
            config(tiny_model, folder, output, "train.steps=1", f"compute.micro_batch_tokens={most}", "grpo.beta=0.1")
        )
        found.append(load_file(output / "adapter_model.safetensors"))
    for other in found[1:]:
        # AdamW's first step is the sign of a gradient: a rate of 0.03 and tiny gradients magnify rounding.
        assert max(float((other[name] - found[0][name]).abs().max()) for name in other) < 1e-4


def test_a_run_is_reproduced_unless_its_reward_is_another_one(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(FUNCTIONS)
    train(config(tiny_model, tmp_path, tmp_path / "run", "train.steps=3", f"data.file={folder / 'rows.jsonl'}"))
    assert reproduce(tmp_path / "run").same
    file.write_text(FUNCTIONS.replace("/ 2", "/ 3"))
    with pytest.raises(Exception, match=r"rewards\.0\.python"):
        reproduce(tmp_path / "run")


def test_a_reward_that_fails_is_named_with_step_and_row_or_left_out(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    ends = config(tiny_model, folder, tmp_path / "ends", "train.steps=4", reward="no_odd_rows")
    with pytest.raises(DataError, match=r"step 1: the reward no_odd_rows failed:\n.*rows.jsonl:\d+, answer 1: "
                                        r"it raised RuntimeError: an odd row"):  # fmt: skip
        train(ends)
    skips = config(
        tiny_model,
        folder,
        tmp_path / "skips",
        "train.steps=5",
        "grpo.num_generations=2",
        reward="no_odd_rows",
        also=", on_error: skip_row",
    )
    seen = events_of(skips)
    judged = [event for event in seen if isinstance(event, AnswersJudged)]
    assert sum(len(event.failed) for event in judged) == 10 * 2, "half of the rows are odd"
    assert [step.supervised for step in steps_of(seen)] == [event.tokens for event in judged]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("{metric: exact}", r"no reference under .*\(10 rows: .*rows.jsonl:2, .*rows.jsonl:4.*\n.*skip_row"),
        ("{metric: exact, column: level, on_error: skip_row}", "no reference under level"),
        ("{python: 'REWARDS:of_level'}", "it needs level; there are answer, completion_ids"),
    ],
)
def test_rows_without_what_a_reward_needs_are_refused_before_the_model_is_loaded(
    reward: str, said: str, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text("def of_level(completions, level): ...", encoding="utf-8")
    rows = [{"prompt": f"{n}?", **({"answer": "e"} if n % 2 == 0 else {})} for n in range(20)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    rewards = f"rewards=[{reward.replace('REWARDS', str(tmp_path / 'rewards.py'))}]"
    seen: list[Event] = []
    with pytest.raises(DataError, match=re.compile(said, re.DOTALL)):
        train(run_config(tiny_model, file, tmp_path / "run", *SETTINGS, rewards), emit=seen.append)
    assert not any(isinstance(event, StageProgress) and "loading" in event.stage for event in seen)


def test_a_reward_that_ends_a_run_costs_no_step_that_was_made(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    """The function is another process in the resumed run, and judges twice more."""
    run = config(tiny_model, folder, tmp_path / "cut", "train.steps=4", reward="tired")
    seen: list[Event] = []
    with pytest.raises(DataError, match="step 3: the reward tired failed"):
        train(run, emit=seen.append)
    assert [(event.step, event.reason) for event in seen if isinstance(event, RunFinished)] == [(2, "failed")]
    again = events_of(run, resume=True)
    assert [event.step for event in steps_of(again)] == [3, 4]
    train(config(tiny_model, folder, tmp_path / "whole", "train.steps=4"))
    assert weights(tmp_path / "cut", "lora") == weights(tmp_path / "whole", "lora")


def test_the_events_of_a_run_are_read_back(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    train(config(tiny_model, folder, tmp_path / "run", "train.steps=1"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (judged,) = [line for line in lines if line["event"] == "AnswersJudged"]
    assert judged["answers"] == 16
    assert len(judged["prompts"]) == len(judged["shown"]) == len(judged["rewards"])


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.time_limit=60", "objective grpo samples its own"),
        ("lora.dropout=0.1", "lora.dropout trains another policy"),
        ("rewards=[]", "objective grpo needs rewards"),
        ("rewards=[{metric: exact, weight: 0}]", "every weight is 0"),
        ("grpo.kl_in=reward", "grpo.beta is 0"),
        ("grpo.reference=base", "grpo.reference base has no effect while grpo.beta is 0"),
        ("grpo.importance_sampling_level=product", "use grpo.loss_type grpo"),
        ("objective=sft", "rewards are for objective grpo"),
        ("compute.products=int8", "use exact"),
    ],
)
def test_what_does_not_go_together_is_refused(
    assignment: str, said: str, tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        config(tiny_model, folder, tmp_path / "run", assignment)
