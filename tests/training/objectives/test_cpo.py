"""The contrast of pairs without a reference, against the paper's formula on full logits."""

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
from veneer.config import CpoSection
from veneer.data.encoded.chat import Example
from veneer.events import Event, StepDone
from veneer.training.objectives.cpo import CPO, Cpo
from veneer.training.objectives.documents import NLL
from veneer.training.run import train


@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    nll: float, answers: list[Example], tiny_model: Path
) -> None:
    model, beta = trainable_model(tiny_model), 0.02
    found = scored(model, answers)
    margins = torch.stack([beta * (pair.chosen.sum() - pair.rejected.sum()) for pair in found])
    contrast, likelihood = torch.log1p(torch.exp(-margins)).mean(), nll * chosen_nll(found)
    metrics = {
        "rewards/margins": float(margins.detach().mean()),
        "rewards/accuracies": float((margins > 0).double().mean()),
    }
    if nll:
        metrics |= {CPO: float(contrast.detach()), NLL: float(likelihood.detach())}
    assert_is_the_formula(model, Cpo(CpoSection(beta=beta, nll=nll)), answers, contrast + likelihood, metrics)


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Cpo(CpoSection()), answers)


@pytest.mark.filterwarnings("ignore")  # TRL's trainer is among its experimental ones, and says so
@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_losses_and_rewards_of_the_first_steps_are_trls(nll: float, plain_end: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl.experimental.cpo", reason="TRL is not installed")
    rows = [turns(row) for row in pairs(ROWS)]
    events: list[Event] = []
    file, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    train(run_config(plain_end, file, output, "objective=cpo", f"cpo.nll={nll}", *SETTINGS), emit=events.append)
    log, weights = trained_by_trl(
        trl.CPOTrainer, trl.CPOConfig, plain_end, in_order(rows), tmp_path / "theirs", cpo_alpha=nll, beta=0.1,
        remove_unused_columns=False,
    )  # fmt: skip
    steps = [event for event in events if isinstance(event, StepDone)]
    assert_same_course(steps, log, ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"))
    assert_same_adapter(output, weights)
