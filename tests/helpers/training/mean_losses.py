"""The loss of micro-batches that are taken as one step, in the plainest way."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veneer.data.micro_batches.batches import MicroBatch
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.training.over_model import OverModel


@torch.no_grad()
def mean_loss(model: LanguageModel, batches: Sequence[MicroBatch]) -> float:
    """The mean cross-entropy of all supervised tokens, without dropout."""
    objective = OverModel(model)
    with evaluation_mode(model):
        return sum(float(objective.sums(batch).total) for batch in batches) / sum(one.supervised for one in batches)
