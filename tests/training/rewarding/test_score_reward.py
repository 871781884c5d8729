"""A reward model as a reward: its scores, and runs that it judges and otherwise leaves as they are."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import pairs
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import stopping_after, weights
from veneer.config import ComputeSection, RunConfig
from veneer.enums import Dtype
from veneer.errors import CheckpointError, Interrupted
from veneer.events import AnswersJudged, Event, StepDone
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import from_directory
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.reproduction.run import reproduce
from veneer.reward_model import open_reward_model
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.judge import Judge
from veneer.training.rewarding.reward_model import reward_model_beside
from veneer.training.rewarding.score_reward import ScoreReward, with_reward_models
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)
SETTINGS = (
    "objective=grpo", "grpo.max_completion_length=8", "grpo.num_generations=4", "train.examples_per_step=4",
    "train.learning_rate=0.03", "train.warmup=0", "train.schedule=constant",
)  # fmt: skip
LETTERS = "def letters(completions):\n    return [min(1.0, text.count('e') / 2) for text in completions]\n"


def trained_judge(model: Path, folder: Path, *more: str) -> Path:
    """A reward model on the tiny model, whose scores differ much."""
    folder.mkdir(exist_ok=True)
    file = write_rows(folder / "pairs.jsonl", pairs(12))
    settings = "objective=reward", "train.steps=4", "train.examples_per_step=6", "train.learning_rate=0.02"
    train(run_config(model, file, folder / "judge", *settings, *more))
    return folder / "judge"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scored")
    rows: list[dict[str, Any]] = [{"prompt": f"{n}: a word{' more' * (n % 5)}?"} for n in range(20)]
    write_rows(path / "rows.jsonl", rows)
    (path / "rewards.py").write_text(LETTERS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, folder: Path) -> Path:
    return trained_judge(tiny_model, folder)


def config(model: Path, folder: Path, output: Path, rewards: str, *more: str) -> RunConfig:
    return run_config(model, folder / "rows.jsonl", output, *SETTINGS, f"rewards=[{rewards}]", *more)


def judged_by(model: Path, folder: Path, adapter: Path) -> Judge:
    """The rewards of a run that has this reward model alone, over a base in float32."""
    base = load_model(open_checkpoint(model), Loading(dtype=torch.float32))
    run = config(model, folder, folder / "unused", f"{{adapter: '{adapter}'}}")
    return with_reward_models(Judge([]), run, base, from_directory(model))


def answer(prompt: Any, text: str) -> AnswerToJudge:
    return AnswerToJudge(where="rows.jsonl:1", prompt=prompt, text=text)


def test_scores_are_those_of_the_reward_model_alone(tiny_model: Path, folder: Path, adapter: Path) -> None:
    """For prompts that are texts, and for turns, one of which the assistant has said before."""
    turns = [
        {"role": "user", "content": "a parcel?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "a crate?"},
    ]
    asked = [(row["prompt"], row[key]) for row in pairs(12, seed=3) for key in ("chosen", "rejected")]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "completion": text} for prompt, text in asked]
    rows.append({"messages": [*turns, {"role": "assistant", "content": "two of them"}]})
    expected = open_reward_model(str(tiny_model), adapter, compute=FLOAT32).scores(rows)
    found = judged_by(tiny_model, folder, adapter).judged(
        [*(answer(prompt, text) for prompt, text in asked), answer(turns, "two of them")]
    )
    assert found.names == ("judge",)
    assert found.values[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.totals.std() > 0.01, "the scores tell texts apart"


def test_an_empty_answer_has_a_score(tiny_model: Path, folder: Path, adapter: Path) -> None:
    found = judged_by(tiny_model, folder, adapter).judged([answer("a parcel?", ""), answer("a parcel?", "two")])
    assert not found.failures
    assert found.totals[0] != found.totals[1]


def test_a_score_that_is_not_finite_is_a_failure(tiny_model: Path, adapter: Path) -> None:
    base = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    beside = reward_model_beside(base, adapter, from_directory(tiny_model))
    assert beside.adapter.score is not None
    with torch.no_grad():
        beside.adapter.score.weight.fill_(float("inf"))
    with pytest.raises(RewardFailed, match="not finite"):
        ScoreReward(beside).values([answer("a parcel?", "two")])


def test_the_base_is_shared_and_stays_as_it_is(tiny_model: Path, folder: Path, adapter: Path) -> None:
    base = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    modules = dict(base.named_modules())
    run = config(tiny_model, folder, folder / "unused", f"{{adapter: '{adapter}'}}")
    judge = with_reward_models(Judge([]), run, base, from_directory(tiny_model))
    judge.judged([answer("a parcel?", "two")])
    assert dict(base.named_modules()) == modules
    assert all(module.training for module in base.modules())
    assert_same_tensors(base.state_dict(), before)
    twin = reward_model_beside(base, adapter, from_directory(tiny_model)).model
    assert isinstance(twin, CausalLM)
    shared = {tensor.data_ptr() for name, tensor in twin.named_parameters() if ".lora_" not in name}
    assert shared == {tensor.data_ptr() for tensor in base.parameters()}


def test_a_reward_model_of_no_weight_leaves_the_bytes_of_a_run(
    tiny_model: Path, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    letters = f"{{python: '{folder / 'rewards.py'}:letters'}}"
    more = "method=qlora", "train.steps=2", "grpo.beta=0.1", "lora.bias=all"
    train(config(tiny_model, folder, tmp_path / "alone", letters, *more))
    both = f"{letters}, {{adapter: '{adapter}', weight: 0.0}}"
    train(config(tiny_model, folder, tmp_path / "both", both, *more))
    assert weights(tmp_path / "both", "qlora") == weights(tmp_path / "alone", "qlora")


def test_a_run_that_it_judges_is_resumed_and_reproduced_to_the_byte_unless_it_has_changed(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    judge = trained_judge(tiny_model, tmp_path)
    rewards = f"{{adapter: '{judge}', weight: 2.0, name: liked}}"
    settings = "train.steps=4", "train.save_every=2", "data.held_out=0.2"
    seen: list[Event] = []
    train(config(tiny_model, folder, tmp_path / "whole", rewards, *settings), emit=seen.append)
    steps = [event for event in seen if isinstance(event, StepDone)]
    assert all(one.metrics["reward"] == pytest.approx(2 * one.metrics["rewards/liked/mean"]) for one in steps)
    assert all(one.grad_norm > 0 for one in steps)
    assert len([event for event in seen if isinstance(event, AnswersJudged)]) == 4
    cut = config(tiny_model, folder, tmp_path / "cut", rewards, *settings)
    with pytest.raises(Interrupted):
        train(cut, stop=stopping_after(3))
    train(cut, resume=True)
    assert weights(tmp_path / "cut", "lora") == weights(tmp_path / "whole", "lora")
    assert reproduce(tmp_path / "whole").same
    again = trained_judge(tiny_model, tmp_path / "other", "train.seed=7")
    copytree(again, judge, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"rewards\.0\.adapter's adapter_model\.safetensors"):
        reproduce(tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"rewards\.0\.adapter's adapter_model\.safetensors"):
        train(config(tiny_model, folder, tmp_path / "cut", rewards, *settings, "train.steps=6"), resume=True)
