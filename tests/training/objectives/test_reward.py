"""The loss of scores is its formula on each text by itself, whatever the cut of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import largest_difference, pairs, step_gradients, trainable_model
from helpers.training.trl_runs import (
    ROWS,
    SETTINGS,
    assert_same_adapter,
    assert_same_course,
    in_order,
    score_head,
    scoring_policy,
    trained_by_trl,
    turns,
)
from veneer.adapters.layers.score import ScoreHead
from veneer.config import RewardSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.events import Event, StepDone
from veneer.model.decoder import CausalLM
from veneer.training.objectives.base import Means
from veneer.training.objectives.documents import REWARD_METRICS
from veneer.training.objectives.reward import CENTRE, REWARD, Reward, last_tokens
from veneer.training.run import train

CENTRED = RewardSection(centring=0.05)
MARGINS = (0.5, 0.0, 2.0, -0.3, 0.0, 1.0, 0.25)


def head(model: CausalLM) -> ScoreHead:
    return ScoreHead(torch.randn(1, model.spec.hidden_size, generator=torch.Generator().manual_seed(3)))


def scores(model: CausalLM, score: ScoreHead, answers: list[Example]) -> Tensor:
    """The score of each text, computed alone, in float64 behind the model."""
    found = []
    for example in answers:
        tokens = torch.tensor(example.tokens, dtype=torch.int64)
        hidden = model.documents(tokens, torch.arange(len(tokens)), [len(tokens)])
        found.append((hidden[-1].double() * score.weight[0].double()).sum())
    return torch.stack(found)


def gradients(
    model: CausalLM, score: ScoreHead, objective: Reward, batches: list[MicroBatch]
) -> tuple[Means, dict[str, Tensor]]:
    """A step that is cut into these micro-batches, and the gradients of the model and of the head."""
    score.zero_grad()
    means, found = step_gradients(model, objective, batches)
    assert score.weight.grad is not None
    return means, found | {"score": score.weight.grad.clone()}


@pytest.mark.parametrize("settings", [RewardSection(), CENTRED], ids=["plain", "centred"])
@pytest.mark.parametrize("margins", [(), MARGINS], ids=["no margins", "margins"])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    settings: RewardSection, margins: tuple[float, ...], answers: list[Example], tiny_model: Path
) -> None:
    model = trainable_model(tiny_model)
    score = head(model)
    found = scores(model, score, answers)
    chosen, rejected = found[::2], found[1::2]
    over = torch.tensor(margins or [0.0] * 7, dtype=torch.float64)
    loss = torch.log1p(torch.exp(-(chosen - rejected - over))).mean()
    loss = loss + settings.centring * (chosen + rejected).square().mean()
    loss.backward()
    assert score.weight.grad is not None
    wanted = {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}
    wanted["score"] = score.weight.grad.clone()
    means, grads = gradients(model, score, Reward(settings, score, margins), pack(answers, 150, together=2))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert largest_difference(grads, {name: wanted[name] for name in grads}) < 5e-6
    right = float((chosen > rejected).double().mean())
    means_of = [float(one.detach().mean()) for one in (chosen, rejected, chosen - rejected)]
    expected = (*means_of, right)
    assert means.metrics == pytest.approx(
        {name: means.metrics[name] for name in means.metrics} | dict(zip(REWARD_METRICS, expected, strict=True)),
        rel=1e-5,
    )


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    model = trainable_model(tiny_model)
    score = head(model)
    objective = Reward(CENTRED, score, MARGINS)
    whole, expected = gradients(model, score, objective, pack(answers, 10**6, together=2))
    for most in (1, 130, 300):
        for share in (True, False):
            means, found = gradients(model, score, objective, pack(answers, most, share=share, together=2))
            assert largest_difference(found, expected) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)


def test_the_last_token_of_each_document_is_found_however_it_is_laid(answers: list[Example]) -> None:
    for share in (True, False):
        for batch in pack(answers, 200, share=share, together=2):
            last = batch.tokens[last_tokens(batch)].tolist()
            assert last == [int(answers[number].tokens[-1]) for number in batch.numbers]
            positions = batch.positions[last_tokens(batch)].tolist()
            assert positions == [len(answers[number].tokens) - 1 for number in batch.numbers]


def test_weights_are_pairs_and_the_centring_is_weighed(answers: list[Example]) -> None:
    weights = Reward(CENTRED, None).weights(pack(answers, 200, together=2))
    assert weights == {REWARD: 7, CENTRE: 7 / 0.05, **dict.fromkeys(REWARD_METRICS, 7)}


def test_losses_and_scores_of_the_first_steps_are_trls(plain_end: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    rows = [turns(row) | {"margin": number % 3 / 2} for number, row in enumerate(pairs(ROWS))]
    events: list[Event] = []
    file, output, policy = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", scoring_policy(plain_end)
    config = run_config(plain_end, file, output, "objective=reward", "reward.centring=0.05", *SETTINGS)
    train(config, emit=events.append)
    log, weights = trained_by_trl(
        trl.RewardTrainer, trl.RewardConfig, plain_end, in_order(rows), tmp_path / "theirs", policy, max_length=None,
        center_rewards_coefficient=0.05,
    )  # fmt: skip
    named = [line | {"rewards/accuracies": line["accuracy"], "rewards/margins": line["margin"]} for line in log]
    steps = [event for event in events if isinstance(event, StepDone)]
    assert_same_course(steps, named, ("rewards/accuracies", "rewards/margins"), logps=())
    for step, line in zip(steps, log, strict=True):
        both = step.metrics["rewards/chosen"] + step.metrics["rewards/rejected"]
        assert both / 2 == pytest.approx(line["mean_reward"], abs=1e-3)
    assert_same_adapter(output, weights | {"score.weight": score_head(policy).detach()})
