"""The objective that a configuration names."""

from __future__ import annotations

from veneer.config import RunConfig
from veneer.enums import ObjectiveName
from veneer.training.objectives.base import Objective
from veneer.training.objectives.cpo import Cpo
from veneer.training.objectives.dpo import Dpo
from veneer.training.objectives.orpo import Orpo
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.objectives.sft import SupervisedCrossEntropy
from veneer.training.objectives.simpo import Simpo


def needs_reference(objective: ObjectiveName) -> bool:
    """Whether the objective compares the policy with a reference."""
    return objective is ObjectiveName.DPO


def objective_of(config: RunConfig, reference: ReferenceTable) -> Objective:
    """What a run minimises.

    Args:
        config: the run.
        reference: the reference's log-probabilities; without effect where none are compared.
    """
    match config.objective:
        case ObjectiveName.SFT:
            return SupervisedCrossEntropy()
        case ObjectiveName.DPO:
            return Dpo(config.dpo, reference)
        case ObjectiveName.ORPO:
            return Orpo(config.orpo)
        case ObjectiveName.CPO:
            return Cpo(config.cpo)
        case ObjectiveName.SIMPO:
            return Simpo(config.simpo)
