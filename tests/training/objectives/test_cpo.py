"""The contrast of pairs without a reference, against the paper's formula on full logits."""

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
from veneer.config import CpoSection
from veneer.data.chat import Example
from veneer.training.objectives.cpo import CPO, Cpo
from veneer.training.objectives.documents import NLL


@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    nll: float, answers: list[Example], tiny_model: Path
) -> None:
    model, beta = trainable_model(tiny_model), 0.02
    pairs = scored(model, answers)
    margins = torch.stack([beta * (pair.chosen.sum() - pair.rejected.sum()) for pair in pairs])
    contrast, likelihood = torch.log1p(torch.exp(-margins)).mean(), nll * chosen_nll(pairs)
    metrics = {
        "rewards/margins": float(margins.detach().mean()),
        "rewards/accuracies": float((margins > 0).double().mean()),
    }
    if nll:
        metrics |= {CPO: float(contrast.detach()), NLL: float(likelihood.detach())}
    assert_is_the_formula(model, Cpo(CpoSection(beta=beta, nll=nll)), answers, contrast + likelihood, metrics)


def test_any_split_packed_or_apart_gives_the_same_gradients(answers: list[Example], tiny_model: Path) -> None:
    assert_any_split_is_the_same_step(trainable_model(tiny_model), Cpo(CpoSection()), answers)
