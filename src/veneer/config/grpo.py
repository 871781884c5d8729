"""The settings of `objective: grpo`, and of the rewards that judge its samples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from veneer.config.numbers import NUMBER, Duration, Folder, Name, NotNegative, Rate
from veneer.config.section import Section
from veneer.enums import OnRewardError
from veneer.formulas import Baseline, GrpoLoss, ImportanceLevel, KlPlace, ReferencePolicy, ScaleRewards


class GrpoSection(Section):
    """Settings of `objective: grpo`."""

    place = "grpo"

    num_generations: Annotated[int, Field(ge=2, le=1024), NUMBER] = 8
    """The number of answers to each prompt, whose rewards are compared with each other."""
    max_completion_length: Annotated[int, Field(ge=1, le=1_000_000), NUMBER] = 256
    """The longest answer, in tokens; longer answers are cut there, and counted."""
    temperature: Rate = 1.0
    """The temperature of sampling, which also divides the policy's scores."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False), NUMBER] = 1.0
    """Answers are sampled from the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0), NUMBER] = 0
    """Answers are sampled from this many likeliest tokens; 0 means all."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), NUMBER] = 0.0
    """Answers are sampled from tokens with at least this share of the likeliest one's probability."""
    epsilon: Rate = 0.2
    """ε: how far a ratio may fall below 1 before it is clipped."""
    epsilon_high: Rate | None = None
    """How far a ratio may rise above 1 before it is clipped; ε by default. DAPO uses 0.28."""
    beta: NotNegative = 0.0
    """β: how strongly the policy is kept close to the reference; 0 means that there is no reference."""
    kl_in: KlPlace = KlPlace.LOSS
    """Where β applies: to a term of the loss for each token (`loss`), or to a number that is subtracted from the
    rewards (`reward`, as in RLOO)."""
    reference: ReferencePolicy = ReferencePolicy.START
    """The model that the policy is compared with: the one that the run starts from (`start`), or the base with the
    adapter off (`base`)."""
    loss_type: GrpoLoss = GrpoLoss.DAPO
    """What losses are divided by: each answer's by its tokens (`grpo`), all by the tokens of the step (`dapo`), or by
    the answers times `max_completion_length` (`dr_grpo`)."""
    importance_sampling_level: ImportanceLevel = ImportanceLevel.TOKEN
    """Whether there is a ratio for each token (`token`), or one for each answer: the mean over its tokens (`sequence`,
    GSPO), or their product (`product`, RLOO)."""
    scale_rewards: ScaleRewards = ScaleRewards.GROUP
    """What advantages are divided by: the standard deviation of a `group`, of the `batch`, or `none` (Dr. GRPO)."""
    baseline: Baseline = Baseline.GROUP
    """What is subtracted from a reward: the mean of its `group`, or of the others in the group (`leave_one_out`,
    RLOO)."""
    num_iterations: Annotated[int, Field(ge=1, le=1000), NUMBER] = 1
    """The number of optimiser steps that use the answers of a step (μ). From the second on, ratios differ from 1."""
    mask_truncated_completions: bool = False
    """Whether answers that were cut at `max_completion_length` are left out of the loss."""


class RewardSpec(Section):
    """One of the rewards of a run. It has exactly one of `python`, `command`, `metric` and `adapter`."""

    python: Name | None = None
    """A function `FILE.py:FUNCTION`, called as TRL calls rewards: `reward(prompts, completions, **columns)`."""
    command: Name | None = None
    """A program that reads a line of JSON for each answer and prints a number, or null, for each."""
    metric: Name | None = None
    """A metric of `veneer evaluate` that judges single answers: `exact`, `json`, `number`, `rouge-l`, `chrf`; or a
    comparison of unchanged texts, which is 1 or 0: `equal`, `not-equal`, `contains`, `contains-any-case`."""
    adapter: Folder | None = None
    """The folder of a reward model: an adapter with a score head on the run's own base, made by `objective: reward`.
    Its score of the answer is the reward."""
    column: Name | None = None
    """The column of the rows that holds the reference of `metric`; by default the first existing one of `reference`,
    `completion`, `answer`, `solution`, `ground_truth`, `target`."""
    weight: Annotated[float, Field(allow_inf_nan=False), NUMBER] = 1.0
    """The factor of the reward in the sum."""
    name: Name | None = None
    """The name of the reward in metrics; by default that of its function, program, metric or folder."""
    time_limit: Duration = 30.0
    """The time that one call of a function or a program may take: seconds, or `90s`, `10m`."""
    on_error: OnRewardError = OnRewardError.END
    """What happens if it raises an error, ends or takes too long on an answer: `end` ends the run, `skip_row` leaves
    the answer out of its step, `skip_group` leaves out all answers to its prompt."""
