"""Distillation: the student's predictions for the rows' answers approach those of a teacher.

    L = Σ over supervised tokens of [ D(teacher ‖ student) − α log π(y_t | before) ] / (supervised tokens of the step)

D is the forward KL divergence (Hinton et al., 2015, arXiv:1503.02531), the reverse one (Gu et al., 2023,
arXiv:2306.08543), or the generalised Jensen-Shannon divergence of GKD (Agarwal et al., 2023, arXiv:2306.13649);
`veneer.training.objectives.divergences` has the formulas. Both distributions are at the temperature T; the loss is not
multiplied by T², as in TRL. The rows are those of fine-tuning: nothing is sampled.

Defaults: the forward divergence at T = 1 (TRL's default is the reverse one), and no cross-entropy of the rows
themselves. The learning rate is that of fine-tuning, whose gradient has the same size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from veneer.config import DistillationSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.divergences import TaughtRows, divergences

DISTILLATION, DIVERGENCE, CROSS_ENTROPY, AGREEMENT = "distillation", "divergence", "cross_entropy", "agreement"
METRICS = {DIVERGENCE: False, CROSS_ENTROPY: False, AGREEMENT: True}
"""The metrics of a student compared with its teacher, and whether higher is better."""


class Teacher(Protocol):
    """The predictions that a student approaches."""

    def of(self, batch: MicroBatch) -> TaughtRows:
        """The teacher's predictions for the supervised tokens of a micro-batch."""
        ...


@dataclass(frozen=True, slots=True)
class Distillation:
    """The divergence from a teacher (`Objective`)."""

    settings: DistillationSection
    teacher: Teacher

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of supervised tokens."""
        tokens = sum(batch.supervised for batch in batches)
        return dict.fromkeys((DISTILLATION, *METRICS), tokens)

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        rows, targets = hidden.index_select(0, sent(batch.rows, hidden.device)), sent(batch.targets, hidden.device)
        found = divergences(rows, head, targets, self.teacher.of(batch), self.settings, shaping=shaping)
        metrics = {DIVERGENCE: found.divergence, CROSS_ENTROPY: found.cross_entropy, AGREEMENT: found.agreement}
        return Sums({DISTILLATION: found.loss}, metrics)
