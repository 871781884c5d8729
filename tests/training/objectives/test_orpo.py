"""The odds ratio and the cross-entropy of chosen answers, against the paper's formula on full logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import (
    assert_any_split_is_the_same_step,
    assert_is_the_formula,
    chosen_nll,
    pairs,
    scored,
    trainable_model,
)
from helpers.training.trl_runs import ROWS, SETTINGS, assert_same_adapter, assert_same_course, in_order, trained_by_trl
from veneer.config import OrpoSection
from veneer.data.encoded.chat import Example
from veneer.events import Event, StepDone
from veneer.training.objectives.documents import NLL
from veneer.training.objectives.orpo import ODDS, ORPO, RATIO, Orpo, log_one_minus_exp
from veneer.training.run import train


def test_loss_gradients_and_metrics_are_those_of_the_formula(answers: list[Example], tiny_model: Path) -> None:
    model, beta = trainable_model(tiny_model), 0.3
    pairs = scored(model, answers)
    ratios = []
    for pair in pairs:
        chosen, rejected = (torch.exp(own.mean()) for own in (pair.chosen, pair.rejected))
        ratios.append(torch.log((chosen / (1 - chosen)) / (rejected / (1 - rejected))))
    odds, nll = -beta * torch.log(torch.sigmoid(torch.stack(ratios))).mean(), chosen_nll(pairs)
    metrics = {
        NLL: float(nll.detach()), ORPO: float(odds.detach()), ODDS: float(torch.stack(ratios).detach().mean()),
        RATIO: -float(odds.detach()) / beta,
        "rewards/chosen": beta * float(torch.stack([pair.chosen.mean() for pair in pairs]).detach().mean()),
    }  # fmt: skip
    assert_is_the_formula(model, Orpo(OrpoSection(beta=beta)), answers, nll + odds, metrics)


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Orpo(OrpoSection()), answers)


@pytest.mark.parametrize("x", [-1e-12, -1e-4, -0.5, -0.6931, -0.6932, -3.0, -50.0])
def test_the_logarithm_of_what_is_left_keeps_its_digits(x: float) -> None:
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    left = 1 - Decimal(x).exp()
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    found = log_one_minus_exp(point)
    found.sum().backward()
    assert float(found.detach()) == pytest.approx(float(left.ln()), rel=1e-12)
    assert point.grad is not None
    assert float(point.grad) == pytest.approx(float(-Decimal(x).exp() / left), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_of_one_has_a_finite_loss_and_gradient(dtype: torch.dtype) -> None:
    means = torch.tensor([0.0, -3.0], dtype=dtype, requires_grad=True)
    odds = means - log_one_minus_exp(means)
    loss = -torch.nn.functional.logsigmoid(odds[0] - odds[1])
    loss.backward()
    assert torch.isfinite(loss)
    assert means.grad is not None
    assert torch.isfinite(means.grad).all()


@pytest.mark.filterwarnings("ignore")  # TRL's trainer is among its experimental ones, and says so
def test_losses_and_rewards_of_the_first_steps_are_trls(plain_text: Path, tmp_path: Path) -> None:
    """Its NLL counts the prompt's tokens too: of a prompt of one token none is predicted, and both are the same."""
    trl = pytest.importorskip("trl.experimental.orpo", reason="TRL is not installed")
    rows = [row | {"prompt": "ABCDEFGHIJ"[number % 10]} for number, row in enumerate(pairs(ROWS))]
    events: list[Event] = []
    file, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    train(run_config(plain_text, file, output, "objective=orpo", "orpo.beta=0.3", *SETTINGS), emit=events.append)
    log, weights = trained_by_trl(
        trl.ORPOTrainer, trl.ORPOConfig, plain_text, in_order(rows), tmp_path / "theirs", beta=0.3, max_length=512,
        remove_unused_columns=False,
    )  # fmt: skip
    named = [line | {NLL: line["nll_loss"]} for line in log]
    steps = [event for event in events if isinstance(event, StepDone)]
    names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", NLL, ODDS, RATIO)
    assert_same_course(steps, named, names, logps=())
    assert_same_adapter(output, weights)
