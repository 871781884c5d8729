"""A run that samples its answers, put together: its steps, its objective and its evaluation over one model."""

from __future__ import annotations

from dataclasses import dataclass

from veneer.config import RunConfig
from veneer.enums import Init
from veneer.training.objectives.grpo import Grpo
from veneer.training.prepare import TrainingData
from veneer.training.rollouts.evaluation import RewardEvaluation
from veneer.training.rollouts.objective import SampledObjective, as_reference_of
from veneer.training.rollouts.sampler import Sampler
from veneer.training.rollouts.steps import SampledSteps
from veneer.training.rollouts.table import RolloutTable
from veneer.training.steps import lanes_in
from veneer.training.trainable import Trainable

AS_BASE = (Init.KAIMING, Init.GAUSSIAN, Init.ORTHOGONAL, Init.EVA)
"""Starts of an adapter under which the model is exactly its base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRun:
    """What a run that samples its answers has in place of rows that are there before it starts."""

    source: SampledSteps
    objective: SampledObjective
    evaluate: RewardEvaluation | None
    """None where no prompts are held out."""


def sampled_run(
    config: RunConfig,
    data: TrainingData,
    trainable: Trainable,
    sampler: Sampler,
) -> SampledRun:
    """Put together what samples, judges and compares.

    Args:
        config: the run, with nothing left open.
        data: its prompts and steps.
        trainable: the part that is trained, as the run starts.
        sampler: samples and judges, with the model that is trained.
    """
    rows, table, settings = data.rows, RolloutTable(), config.grpo
    source = SampledSteps(
        steps=data.asked,
        prompts=rows.prompts[: len(rows.train)],
        settings=settings,
        seed=config.train.seed,
        lanes_in_step=lanes_in(config.train),
        sampler=sampler,
        table=table,
        emit=sampler.emit,
    )
    started = config.train.from_adapter is not None or config.lora.init not in AS_BASE
    as_reference = as_reference_of(settings, trainable, started)
    objective = SampledObjective(sampler.model, Grpo(settings, table), as_reference, sampler.group)
    evaluate = None
    if len(rows.eval):
        evaluate = RewardEvaluation(
            sampler=sampler,
            prompts=rows.prompts[len(rows.train) :],
            examples=list(rows.eval),
            longest=settings.max_completion_length,
        )
    return SampledRun(source=source, objective=objective, evaluate=evaluate)
