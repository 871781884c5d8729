"""The parts of a run that samples its answers: its steps, its objective and its evaluation over one model."""

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
"""Starts of an adapter after which the model equals its base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRun:
    """The parts of a run that samples its answers and so has no rows with answers before it starts."""

    source: SampledSteps
    objective: SampledObjective
    evaluate: RewardEvaluation | None
    """The evaluation; None if no prompts are held out."""


def sampled_run(
    config: RunConfig,
    data: TrainingData,
    trainable: Trainable,
    sampler: Sampler,
) -> SampledRun:
    """Build the sampling, judging and comparing parts of a run.

    Args:
        config: the run, with no choice left open.
        data: the run's prompts and steps.
        trainable: the part that is trained, as the run starts.
        sampler: samples and judges answers of the model that is trained.
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
