"""The objective that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from veneer.config import RunConfig
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.rows import Rows
from veneer.enums import ObjectiveName
from veneer.training.objectives.base import Objective
from veneer.training.objectives.cpo import Cpo
from veneer.training.objectives.distillation import Distillation, Teacher
from veneer.training.objectives.divergences import TaughtRows
from veneer.training.objectives.dpo import Dpo
from veneer.training.objectives.grpo import Grpo
from veneer.training.objectives.kto import Kto
from veneer.training.objectives.orpo import Orpo
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.objectives.reward import Reward
from veneer.training.objectives.sft import SupervisedCrossEntropy
from veneer.training.objectives.simpo import Simpo
from veneer.training.rollouts.table import RolloutTable


def needs_reference(objective: ObjectiveName) -> bool:
    """Whether the objective compares the policy with a reference."""
    return objective in (ObjectiveName.DPO, ObjectiveName.KTO)


@dataclass(frozen=True, slots=True)
class NoTeacher:
    """The teacher of a run that needs none, or none yet (`Teacher`)."""

    def of(self, batch: MicroBatch) -> TaughtRows:
        """Never called."""
        raise AssertionError("a run that is taught has a teacher before its first step")


def objective_of(
    config: RunConfig,
    reference: ReferenceTable,
    rows: Rows | None = None,
    teacher: Teacher | None = None,
    score: nn.Module | None = None,
) -> Objective:
    """The objective of a run.

    Args:
        config: the run.
        reference: the reference's log-probabilities; without effect if the objective needs none.
        rows: the rows of the run, with labels and margins; None before they are read.
        teacher: the teacher of a distillation.
        score: the head of a reward model.
    """
    match config.objective:
        case ObjectiveName.SFT | ObjectiveName.PRETRAINING:
            return SupervisedCrossEntropy()
        case ObjectiveName.DPO:
            return Dpo(config.dpo, reference)
        case ObjectiveName.ORPO:
            return Orpo(config.orpo)
        case ObjectiveName.CPO:
            return Cpo(config.cpo)
        case ObjectiveName.SIMPO:
            return Simpo(config.simpo)
        case ObjectiveName.KTO:
            return Kto(config.kto, reference, np.array(() if rows is None else rows.labels, dtype=np.bool_))
        case ObjectiveName.DISTILLATION:
            return Distillation(config.distillation, NoTeacher() if teacher is None else teacher)
        case ObjectiveName.REWARD:
            return Reward(config.reward, score, () if rows is None else rows.margins)
        case ObjectiveName.GRPO:
            return Grpo(config.grpo, RolloutTable())
