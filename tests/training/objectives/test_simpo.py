"""The contrast of mean log-probabilities, against the paper's formula on full logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preference_rows import (
    assert_any_split_is_the_same_step,
    assert_is_the_formula,
    chosen_nll,
    scored,
    trainable_model,
)
from veneer.config import SimpoSection
from veneer.data.chat import Example
from veneer.training.objectives.documents import NLL
from veneer.training.objectives.simpo import SIMPO, Simpo


@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    nll: float, answers: list[Example], tiny_model: Path
) -> None:
    model, settings = trainable_model(tiny_model), SimpoSection(gamma=0.4, nll=nll)
    pairs = scored(model, answers)
    margins = torch.stack([settings.beta * (pair.chosen.mean() - pair.rejected.mean()) for pair in pairs])
    contrast = torch.log1p(torch.exp(settings.gamma - margins)).mean()
    likelihood = nll * chosen_nll(pairs)
    metrics = {
        "rewards/margins": float(margins.detach().mean()),
        "rewards/accuracies": float((margins > 0).double().mean()),
        "logps/rejected": float(torch.stack([pair.rejected.sum() for pair in pairs]).detach().mean()),
    }
    if nll:
        metrics |= {SIMPO: float(contrast.detach()), NLL: float(likelihood.detach())}
    assert_is_the_formula(model, Simpo(settings), answers, contrast + likelihood, metrics)


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Simpo(SimpoSection()), answers)


def test_there_is_no_likelihood_unless_it_is_asked_for() -> None:
    """TRL's trainer adds one of weight 1 in silence."""
    assert NLL not in Simpo(SimpoSection()).weights([])
