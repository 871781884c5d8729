"""A run that samples its answers, put together: its steps, its objective and its evaluation over one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from veneer.config import RunConfig
from veneer.enums import Init
from veneer.events import Subscriber
from veneer.model.language import LanguageModel
from veneer.rewards.judge import Judge
from veneer.training.objectives.grpo import Grpo
from veneer.training.objectives.rollout import RolloutTable
from veneer.training.prepare import TrainingData
from veneer.training.prompt_steps import PromptSteps
from veneer.training.reward_evaluation import RewardEvaluation
from veneer.training.sampled_objective import SampledObjective, reference_of
from veneer.training.sampled_steps import SampledSteps
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
    model: LanguageModel,
    trainable: Trainable,
    judge: Judge,
    stop_ids: frozenset[int],
    emit: Subscriber,
    stop: Callable[[], bool],
) -> SampledRun:
    """Put together what samples, judges and compares.

    Args:
        config: the run, with nothing left open.
        data: its prompts and steps.
        model: with what is trained on it, as the run starts.
        trainable: the part that is trained.
        judge: the rewards.
        stop_ids: tokens that end an answer.
        emit: told how far the sampling is, and of what was sampled.
        stop: asked while answers are sampled and judged.
    """
    steps, tokenizer, rows = data.steps, data.tokenizer, data.rows
    assert isinstance(steps, PromptSteps), "rows with answers are not sampled"
    table, settings = RolloutTable(), config.grpo
    source = SampledSteps(
        steps=steps,
        prompts=rows.prompts[: len(rows.train)],
        settings=settings,
        seed=config.train.seed,
        lanes_in_step=lanes_in(config.train),
        model=model,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        judge=judge,
        table=table,
        emit=emit,
        stop=stop,
    )
    started = config.train.from_adapter is not None or config.lora.init not in AS_BASE
    objective = SampledObjective(model, Grpo(settings, table), reference_of(settings, trainable, started))
    evaluate = None
    if len(rows.eval):
        evaluate = RewardEvaluation(
            model=model,
            prompts=rows.prompts[len(rows.train) :],
            examples=list(rows.eval),
            longest=settings.max_completion_length,
            tokenizer=tokenizer,
            stop_ids=stop_ids,
            judge=judge,
            stop=stop,
            emit=emit,
        )
    return SampledRun(source=source, objective=objective, evaluate=evaluate)
