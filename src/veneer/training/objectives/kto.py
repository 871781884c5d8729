"""Kahneman-Tversky optimisation, on single answers that are desirable or not.

Ethayarajh et al., 2024 (arXiv:2402.01306), equations 7 and 8. With Δ = ℓ − ℓ_ref the log-ratio of an answer, σ the
logistic function, and K the reference point of a step, the loss of an answer is

    λ_D (1 − σ(β(Δ − K)))     if it is desirable
    λ_U (1 − σ(β(K − Δ)))     if it is not

and the sum is divided by the answers of the step. K = max(0, mean of Δ(x, y′)) over the step, where y′ is the answer of
another row of the step to another prompt: it estimates how far the policy has moved from the reference. K has no
gradient, and is that of the whole step, independent of its cut into micro-batches: a separate pass computes it before
the first backward pass. `veneer.training.references.partners` chooses the other row. A step without partners (one row,
or equal answers) has K = 0.

Defaults: β 0.1 and λ 1 are the paper's and TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veneer.config import KtoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import log_probabilities
from veneer.training.objectives.reference import ReferenceTable

KTO, KL = "kto", "kl"
METRICS = {"rewards/chosen": True, "rewards/rejected": False, "logps/chosen": True, "logps/rejected": False}
"""The metrics of labelled answers, and whether higher is better. For `kl` neither direction is better."""


@dataclass(frozen=True, slots=True)
class Kto:
    """The losses of labelled answers against a reference and a reference point (`Objective`)."""

    settings: KtoSection
    reference: ReferenceTable
    """The reference's log-probabilities."""
    labels: NDArray[np.bool_]
    """Whether an answer is desirable, by its place in the run."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of answers; for the metrics of desirable and undesirable answers the number of these, or 1 if
        there are none."""
        numbers = [number for batch in batches for number in batch.numbers]
        good = int(self.labels[numbers].sum())
        chosen, rejected = max(1, good), max(1, len(numbers) - good)
        means = {name: chosen if name.endswith("/chosen") else rejected for name in METRICS}
        return {KTO: len(numbers), KL: len(numbers), **means}

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`. The reference point is the micro-batch's `baseline`."""
        policy, settings = log_probabilities(hidden, head, shaping, batch), self.settings
        gains = policy - sent(self.reference.of(batch), policy.device)
        labels = self.labels[list(batch.numbers)]
        good = sent(torch.from_numpy(labels), policy.device)
        above = settings.beta * (gains - batch.baseline)
        # 1 − σ(z) = σ(−z), which keeps its precision when σ(z) is near 1.
        desirable = settings.desirable_weight * torch.sigmoid(-above)
        undesirable = settings.undesirable_weight * torch.sigmoid(above)
        rewards, logps = settings.beta * gains.detach(), policy.detach()
        metrics = {KL: batch.baseline * len(batch.numbers)}
        # By indices that are known on the host: a mask would make the host wait for a GPU to count its elements.
        for kind, places in (("chosen", np.flatnonzero(labels)), ("rejected", np.flatnonzero(~labels))):
            if len(places):  # an empty group has no mean
                at = sent(torch.from_numpy(places), policy.device)
                metrics[f"rewards/{kind}"] = rewards.index_select(0, at).sum()
                metrics[f"logps/{kind}"] = logps.index_select(0, at).sum()
        return Sums({KTO: torch.where(good, desirable, undesirable).sum()}, metrics)
