"""The losses of pairs: against their formulas on full logits, whatever the cut of a step, and what runs report."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import (
    answer_logps,
    assert_any_split_is_the_same_step,
    assert_is_the_formula,
    largest_difference,
    pairs,
    step_gradients,
    trainable_model,
)
from helpers.training.trl_runs import ROWS, assert_same_adapter, assert_same_course, in_order, trained_by_trl, turns
from helpers.training.trl_runs import SETTINGS as SAME_RUN
from veneer.config import DpoSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.events import Event, StepDone
from veneer.formulas import DpoLoss
from veneer.model.decoder import CausalLM
from veneer.training.objectives.documents import NLL, PAIR_METRICS
from veneer.training.objectives.dpo import DPO, Dpo, dpo_loss
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.run import train

SETTINGS = {
    "sigmoid": DpoSection(),
    "conservative": DpoSection(beta=0.3, label_smoothing=0.2),
    "robust": DpoSection(loss=DpoLoss.ROBUST, label_smoothing=0.2),
    "hinge": DpoSection(loss=DpoLoss.HINGE, beta=0.05),
    "ipo": DpoSection(loss=DpoLoss.IPO),
    "sigmoid_norm": DpoSection(loss=DpoLoss.SIGMOID_NORM, beta=5.0),
    "rpo": DpoSection(nll=0.4),
}


def table(answers: list[Example], seed: int = 0) -> ReferenceTable:
    """Some log-probabilities of a reference: those that a model near this one might have."""
    source = np.random.default_rng(seed)
    return ReferenceTable(np.array([-4.0 * one.supervised + source.normal(scale=3.0) for one in answers]))


def by_definition(
    model: CausalLM, answers: list[Example], reference: ReferenceTable, settings: DpoSection
) -> tuple[Tensor, dict[str, float]]:
    """Loss and metrics of a step as the papers write them, in float64 on full logits."""
    loss = torch.zeros((), dtype=torch.float64)
    nll, tokens = torch.zeros((), dtype=torch.float64), 0
    metrics = dict.fromkeys(PAIR_METRICS, 0.0)
    count, beta, epsilon = len(answers) // 2, settings.beta, settings.label_smoothing
    for place in range(0, len(answers), 2):
        gains, logps, rewards = [], [], []
        for at in (place, place + 1):
            own = answer_logps(model, answers[at])
            parts = len(own) if settings.loss in (DpoLoss.IPO, DpoLoss.SIGMOID_NORM) else 1
            logps.append(float(own.sum().detach()))
            rewards.append(beta * (logps[-1] - reference.values[at]))
            gains.append((own.sum() - reference.values[at]) / parts)
        chosen = answer_logps(model, answers[place])
        nll, tokens = nll - chosen.sum(), tokens + len(chosen)
        delta = gains[0] - gains[1]
        right, swapped = torch.log1p(torch.exp(-beta * delta)), torch.log1p(torch.exp(beta * delta))
        loss = (
            loss
            + {
                DpoLoss.SIGMOID: (1 - epsilon) * right + epsilon * swapped,
                DpoLoss.ROBUST: ((1 - epsilon) * right - epsilon * swapped) / (1 - 2 * epsilon),
                DpoLoss.HINGE: torch.clamp(1 - beta * delta, min=0),
                DpoLoss.IPO: (delta - 1 / (2 * beta)) ** 2,
                DpoLoss.SIGMOID_NORM: right,
            }[settings.loss]
        )
        found = (*rewards, rewards[0] - rewards[1], rewards[0] > rewards[1], *logps)
        for name, value in zip(PAIR_METRICS, found, strict=True):
            metrics[name] += value / count
    total = loss / count
    if settings.nll:
        total = total + settings.nll * nll / tokens
        metrics |= {DPO: float(loss.detach()) / count, NLL: settings.nll * float(nll.detach()) / tokens}
    return total, metrics


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    name: str, answers: list[Example], tiny_model: Path
) -> None:
    model, reference, settings = trainable_model(tiny_model), table(answers), SETTINGS[name]
    expected, metrics = by_definition(model, answers, reference, settings)
    assert_is_the_formula(model, Dpo(settings, reference), answers, expected, metrics)


@pytest.mark.parametrize("name", SETTINGS)
def test_any_split_packed_or_apart_gives_the_same_gradients(
    name: str, answers: list[Example], tiny_model: Path
) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Dpo(SETTINGS[name], table(answers)), answers)


def test_the_order_of_the_pairs_changes_nothing_and_each_keeps_its_reference(
    answers: list[Example], tiny_model: Path
) -> None:
    model, objective = trainable_model(tiny_model), Dpo(DpoSection(), table(answers))
    _, expected = step_gradients(model, objective, pack(answers, 200, together=2))
    numbers = [at for pair in (4, 2, 6, 0, 1, 5, 3) for at in (2 * pair, 2 * pair + 1)]
    turned = pack([answers[at] for at in numbers], 200, together=2, numbers=numbers)
    _, found = step_gradients(model, objective, turned)
    assert largest_difference(found, expected) < 1e-6


def test_where_policy_and_reference_agree_the_loss_is_log_two_and_no_reward_is_given() -> None:
    assert float(dpo_loss(torch.zeros(3, dtype=torch.float64), DpoSection()).mean()) == pytest.approx(log(2), rel=1e-15)


def test_the_robust_loss_of_swapped_pairs_is_on_average_that_of_right_ones() -> None:
    delta = torch.linspace(-30, 30, 61, dtype=torch.float64)
    share = 0.3
    robust = DpoSection(loss=DpoLoss.ROBUST, label_smoothing=share)
    seen = (1 - share) * dpo_loss(delta, robust) + share * dpo_loss(-delta, robust)
    assert torch.allclose(seen, dpo_loss(delta, DpoSection()), rtol=1e-12)


def test_swapping_a_pair_swaps_its_metrics(answers: list[Example], tiny_model: Path) -> None:
    """Others reported the rewards of the chosen answers under the name of the rejected ones."""
    model, reference = trainable_model(tiny_model), table(answers)
    means, _ = step_gradients(model, Dpo(DpoSection(), reference), pack(answers, 200, together=2))
    order = [at ^ 1 for at in range(len(answers))]
    swapped = Dpo(DpoSection(), ReferenceTable(reference.values[order]))
    other, _ = step_gradients(model, swapped, pack([answers[at] for at in order], 200, together=2))
    assert other.metrics["rewards/chosen"] == pytest.approx(means.metrics["rewards/rejected"], rel=1e-6)
    assert other.metrics["logps/rejected"] == pytest.approx(means.metrics["logps/chosen"], rel=1e-6)
    assert other.metrics["rewards/margins"] == pytest.approx(-means.metrics["rewards/margins"], rel=1e-5)
    assert other.metrics["rewards/accuracies"] == pytest.approx(1 - means.metrics["rewards/accuracies"])


def test_a_prompt_is_computed_once_for_both_answers(answers: list[Example]) -> None:
    """At least nine tenths of what could be saved: each prompt once in place of twice."""
    laid = sum(sum(block.tokens for block in batch.blocks) or batch.shared + sum(batch.lengths)
               for batch in pack(answers, 200, together=2))  # fmt: skip
    apart = sum(len(one.tokens) for one in answers)
    prompts = sum(int(np.argmax(one.loss_mask)) for one in answers[::2])
    assert apart - laid >= 0.9 * prompts


THEIRS = {
    "sigmoid": ("dpo.loss=sigmoid",),
    "hinge": ("dpo.loss=hinge",),
    "ipo": ("dpo.loss=ipo", "dpo.beta=0.5"),
    "robust": ("dpo.loss=robust", "dpo.label_smoothing=0.1"),
    "sigmoid_norm": ("dpo.loss=sigmoid_norm", "dpo.beta=2.0"),
    "sigmoid and NLL": ("dpo.loss=sigmoid", "dpo.nll=0.4"),
}


@pytest.mark.parametrize("loss", THEIRS)
def test_losses_and_rewards_of_the_first_steps_are_trls(loss: str, plain_end: Path, tmp_path: Path) -> None:
    """TRL is no dependency, of tests neither: without it the formulas are what the losses are held against."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    rows = [turns(row) for row in pairs(ROWS)]
    events: list[Event] = []
    file, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    config = run_config(plain_end, file, output, "objective=dpo", *SAME_RUN, *THEIRS[loss])
    train(config, emit=events.append)
    log, weights = trained_by_trl(
        trl.DPOTrainer, trl.DPOConfig, plain_end, in_order(rows), tmp_path / "theirs", max_length=None,
        beta=config.dpo.beta, label_smoothing=config.dpo.label_smoothing,
        **({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.dpo.nll]} if config.dpo.nll
           else {"loss_type": [loss]}),
    )  # fmt: skip
    steps = [event for event in events if isinstance(event, StepDone)]
    names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    assert_same_course(steps, log, names)
    assert_same_adapter(output, weights)
