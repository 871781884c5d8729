"""The contrast of mean log-probabilities, against the paper's formula on full logits."""

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
from helpers.training.trl_runs import (
    ROWS,
    SETTINGS,
    assert_same_adapter,
    assert_same_course,
    in_order,
    trained_by_trl,
    turns,
)
from veneer.config import SimpoSection
from veneer.data.encoded.chat import Example
from veneer.events import Event, StepDone
from veneer.training.objectives.documents import NLL
from veneer.training.objectives.simpo import SIMPO, Simpo
from veneer.training.run import train


@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    nll: float, answers: list[Example], tiny_model: Path
) -> None:
    model, settings = trainable_model(tiny_model), SimpoSection(gamma=0.4, nll=nll)
    found = scored(model, answers)
    margins = torch.stack([settings.beta * (pair.chosen.mean() - pair.rejected.mean()) for pair in found])
    contrast = torch.log1p(torch.exp(settings.gamma - margins)).mean()
    likelihood = nll * chosen_nll(found)
    metrics = {
        "rewards/margins": float(margins.detach().mean()),
        "rewards/accuracies": float((margins > 0).double().mean()),
        "logps/rejected": float(torch.stack([pair.rejected.sum() for pair in found]).detach().mean()),
    }
    if nll:
        metrics |= {SIMPO: float(contrast.detach()), NLL: float(likelihood.detach())}
    assert_is_the_formula(model, Simpo(settings), answers, contrast + likelihood, metrics)


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Simpo(SimpoSection()), answers)


def test_there_is_no_likelihood_unless_it_is_asked_for() -> None:
    """TRL's trainer adds one of weight 1 in silence."""
    assert NLL not in Simpo(SimpoSection()).weights([])


@pytest.mark.filterwarnings("ignore")  # TRL's trainer is among its experimental ones, and says so
def test_losses_and_rewards_of_the_first_steps_are_trls(plain_end: Path, tmp_path: Path) -> None:
    """Its log-probabilities are means over tokens, and ours are sums."""
    trl = pytest.importorskip("trl.experimental.cpo", reason="TRL is not installed")
    rows = [turns(row) for row in pairs(ROWS)]
    events: list[Event] = []
    file, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    train(run_config(plain_end, file, output, "objective=simpo", *SETTINGS), emit=events.append)
    log, weights = trained_by_trl(
        trl.CPOTrainer, trl.CPOConfig, plain_end, in_order(rows), tmp_path / "theirs", loss_type="simpo",
        cpo_alpha=0.0, beta=2.5, simpo_gamma=1.375, remove_unused_columns=False,
    )  # fmt: skip
    steps, names = [event for event in events if isinstance(event, StepDone)], ("rewards/chosen", "rewards/rejected")
    assert_same_course(steps, log, (*names, "rewards/margins", "rewards/accuracies"), logps=())
    assert_same_adapter(output, weights)
