"""Settings that contradict each other, across sections."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from veneer.config.data import DataSection
from veneer.config.grpo import RewardSpec
from veneer.config.lora import QuantSection
from veneer.config.objectives import DistillationSection
from veneer.config.run import OBJECTIVE_SECTIONS, RunConfig
from veneer.enums import (
    Init,
    Method,
    ObjectiveName,
    OptimizerName,
    Overlong,
    Products,
    Publish,
    RowKind,
    Scheme,
    Sharding,
    SplitBy,
    TokenCache,
    TrackerName,
)
from veneer.errors import ConfigError, listing
from veneer.formulas import Divergence, DpoLoss, GrpoLoss, ImportanceLevel, KlPlace, ReferencePolicy

ALTERNATIVES = (
    ("train.examples_per_step", "train.tokens_per_step", "what a step is; give one"),
    ("train.epochs", "train.steps", "how long to train; give one (the other is null)"),
    ("data.eval_file", "data.held_out", "what to evaluate on; give one"),
    ("data.file", "data.sources", "what to train on; give one"),
)
"""Pairs of settings of which a run has at most one, what both of them say, and the remedy."""


def check(config: RunConfig) -> None:
    """Refuse combinations of settings that contradict each other, all at once.

    Raises:
        ConfigError: settings contradict each other; every contradiction is named.
    """
    problems = [
        f"{one} and {other} both say {what}" for one, other, what in ALTERNATIVES if all(attrgetter(one, other)(config))
    ]
    problems += split_problems(config.data, config.objective.rows)
    if not config.data.evaluates:
        asked = [
            ("train.eval_every", bool(config.train.eval_every)),
            ("train.patience", config.train.patience),
            ("train.publish best", config.train.publish is Publish.BEST),
            ("train.best_metric", config.train.best_metric != "loss"),
        ]
        problems += [
            f"{name} needs evaluations, and the run has no rows for them; give data.held_out or data.eval_file"
            for name, given in asked
            if given
        ]
    if config.train.sample_prompts and config.train.samples_every is None:
        problems.append(
            "train.sample_prompts are answered every train.samples_every steps, which is not set; set it too"
        )
    if config.compute.products is Products.INT8 and config.method is Method.FULL:
        problems.append(
            "compute.products int8 is for a frozen base, and method full trains it; use method lora or qlora, or "
            "compute.products exact"
        )
    if config.train.optimizer is OptimizerName.SGD and config.train.learning_rate == "auto":
        problems.append(
            "train.learning_rate auto knows no rate for train.optimizer sgd, whose steps grow with the gradient; give "
            "a number"
        )
    if config.train.lora_plus_ratio != 1.0 and config.method is Method.FULL:
        problems.append(
            "train.lora_plus_ratio is for an adapter's B, and method full has none; use method lora or qlora, or set "
            "it to 1"
        )
    if config.train.from_adapter is not None and config.method is Method.FULL:
        problems.append("train.from_adapter is an adapter, and method full trains none; use method lora or qlora")
    if config.lora.new_tokens and config.method is Method.FULL:
        problems.append(
            "lora.new_tokens are trained with an adapter, and method full has none; use method lora or qlora"
        )
    if config.train.time_limit is not None and config.lora.init is Init.EVA and config.method is not Method.FULL:
        problems.append(
            "train.time_limit fixes the steps after lora.init eva has looked at their rows; give train.steps, or "
            "another init"
        )
    problems += sharding_problems(config)
    problems += quant_problems(config.quant)
    problems += tracking_problems(config)
    problems += objective_problems(config)
    if problems:
        raise ConfigError(f"the configuration contradicts itself:\n{listing(problems)}")


def split_problems(data: DataSection, rows: RowKind) -> list[str]:
    """Contradictions in how rows of a kind are held out."""
    by, column = data.split.by, data.split.column
    problems = []
    if by is not SplitBy.ROW and not data.held_out:
        problems.append(f"data.split.by {by.value} says which rows are held out, and data.held_out is 0; give a share")
    if by in (SplitBy.GROUP, SplitBy.TIME) and column is None:
        problems.append(f"data.split.by {by.value} needs data.split.column, the column that rows are split by")
    if by is SplitBy.LABEL and column is None and rows in (RowKind.PROMPTS, RowKind.TEXTS):
        problems.append(
            f"data.split.by label uses answers, and {rows.value} have none; name the column of the label by "
            "data.split.column"
        )
    if by in (SplitBy.ROW, SplitBy.NEAR_DUPLICATES) and column is not None:
        problems.append(
            f"data.split.column is for group, label or time, and data.split.by is {by.value}; leave one out"
        )
    return problems


WANDB_FORBIDS, WANDB_LONGEST = "/\\#?%:", 128
"""What wandb's client refuses in the name of a project: these characters, and more characters than this number."""
IN_PARTS = (OptimizerName.ADAMW, OptimizerName.LION, OptimizerName.SGD)
"""Optimisers that change each number by its own state, so that a tensor can be in parts."""


def sharding_problems(config: RunConfig) -> list[str]:
    """What cannot be combined with weights in parts."""
    if config.compute.sharding is not Sharding.FULL:
        return []
    by_loss, train = "by the evaluation loss alone", config.train
    found = {
        f"trains all weights, and method is {config.method.value}; use method full, or sharding none, with which "
        "every process has the whole base": config.method is not Method.FULL,
        f"trains on the answers in the rows, and objective is {config.objective.value}; use sft or pretraining": (
            not config.objective.imitates
        ),
        f"needs an optimiser whose state can be cut, and train.optimizer is {train.optimizer.value}; use "
        f"{', '.join(one.value for one in IN_PARTS)}": train.optimizer not in IN_PARTS,
        f"compares evaluations {by_loss}, and train.best_metric is {train.best_metric}": train.best_metric != "loss",
        "answers no prompts during the run; leave train.samples_every out": train.samples_every is not None,
        "measures no steps in advance; give train.steps or train.epochs instead of train.time_limit": (
            train.time_limit is not None
        ),
    }
    return [f"compute.sharding full {why}" for why, wrong in found.items() if wrong]


def tracking_problems(config: RunConfig) -> list[str]:
    """What a tracker refuses, and would report only after the run."""
    if TrackerName.WANDB not in config.track:
        return []
    project, problems = config.tracking.project, []
    if any(sign in project for sign in WANDB_FORBIDS):
        problems.append(
            f"tracking.project {project!r} cannot be a project of wandb, whose name must not contain "
            f"{' '.join(WANDB_FORBIDS)}; give another one"
        )
    if len(project) > WANDB_LONGEST:
        problems.append(
            f"tracking.project has {len(project):,} characters, and the name of a wandb project has at most "
            f"{WANDB_LONGEST}; give a shorter one"
        )
    return problems


def quant_problems(quant: QuantSection) -> list[str]:
    """Contradictions in the section `quant`."""
    if quant.scheme is not Scheme.INT8:
        return []
    default = QuantSection()
    given = [name for name in ("block", "double_quant") if getattr(quant, name) != getattr(default, name)]
    return [
        f"quant.{name} is for the 4-bit schemes, and int8 has one float32 scale for every output; leave it out, or use "
        "quant.scheme nf4"
        for name in given
    ]


def objective_problems(config: RunConfig) -> list[str]:
    """Contradictions in the objective's settings, and settings of other objectives."""
    problems = []
    for own in OBJECTIVE_SECTIONS:
        section = getattr(config, own.value)
        given = [key for key, info in type(section).model_fields.items() if getattr(section, key) != info.default]
        if own is not config.objective:
            problems += [
                f"{own.value}.{key} is a setting of objective {own.value}, and objective is {config.objective.value}; "
                f"leave it out, or set objective: {own.value}"
                for key in given
            ]
    if config.objective is ObjectiveName.DISTILLATION:
        problems += distillation_problems(config)
    problems += sampling_problems(config)
    if config.objective.rows in (RowKind.ANSWERS, RowKind.TEXTS):
        return problems
    name = config.objective.value
    if config.data.cache is TokenCache.ALWAYS:
        problems.append(f"data.cache always keeps rows of objective sft, and objective is {name}; leave it out")
    if config.data.overlong is not Overlong.DROP:
        problems.append(
            f"data.overlong {config.data.overlong.value} cuts answers, which objective {name} compares; use drop, and "
            "raise data.max_length"
        )
    if config.lora.init is Init.EVA and config.method is not Method.FULL:
        problems.append(f"lora.init eva is measured on supervised rows, and objective is {config.objective.value}; "
                        "use another init")  # fmt: skip
    if config.objective is ObjectiveName.KTO and config.train.time_limit is not None:
        problems.append(
            "train.time_limit counts the steps that fit after objective kto has computed its reference for all of "
            "them; give train.steps"
        )
    if config.dpo.label_smoothing and config.dpo.loss not in (DpoLoss.SIGMOID, DpoLoss.ROBUST):
        problems.append(
            f"dpo.label_smoothing is for dpo.loss sigmoid and robust, and it is {config.dpo.loss.value}; leave it out"
        )
    if config.dpo.loss is DpoLoss.ROBUST and not config.dpo.label_smoothing:
        problems.append(
            "dpo.loss robust needs dpo.label_smoothing, the share of pairs that are swapped; without it, it is sigmoid"
        )
    if config.objective is ObjectiveName.REWARD:
        problems += reward_model_problems(config)
    if config.reference is ReferencePolicy.BASE and config.method is Method.FULL:
        problems.append(f"{name}.reference base is the base with the adapter off, and method full has none; use start")
    return problems


def distillation_problems(config: RunConfig) -> list[str]:
    """Contradictions in a distillation."""
    settings, problems = config.distillation, []
    if settings.teacher is None and settings.teacher_adapter is None:
        problems.append(
            "objective distillation needs a teacher: give distillation.teacher (a model with the same vocabulary), or "
            "distillation.teacher_adapter (an adapter on the same base)"
        )
    if settings.beta != DistillationSection().beta and settings.divergence is not Divergence.GENERALISED:
        problems.append(
            f"distillation.beta is for distillation.divergence generalised, and it is {settings.divergence.value}; "
            "leave it out"
        )
    if settings.teacher is None and config.method is Method.FULL and settings.top_k is None:
        problems.append(
            "distillation.teacher_adapter shares its base with the student, and method full changes that; give "
            "distillation.top_k, so that the teacher computes before the student is loaded, or distillation.teacher"
        )
    if config.lora.new_tokens:
        problems.append("lora.new_tokens are unknown to the teacher of objective distillation; leave them out")
    return problems


def reward_model_problems(config: RunConfig) -> list[str]:
    """What a reward model cannot have, since it scores texts and writes none."""
    lora = config.lora
    named = [f"lora.{name}" for name in ("trainable_tokens", "new_tokens") if getattr(lora, name)]
    names = lora.target_modules if isinstance(lora.target_modules, tuple) else (lora.target_modules,)
    named += ["lora.target_modules lm_head"] if "lm_head" in names else []
    named += ["lora.modules_to_save lm_head"] if "lm_head" in lora.modules_to_save else []
    problems = [
        f"{name} changes how tokens are read or written, and a reward model has its own head instead of "
        "lm_head; leave it out"
        for name in named
    ]
    if config.method is Method.FULL:
        problems.append(
            "objective reward trains an adapter with a score head, and method full has none; use method lora or qlora"
        )
    if config.train.samples_every is not None:
        problems.append("train.samples_every answers prompts, and a reward model writes no text; leave it out")
    return problems


def single_reward_problems(rewards: Sequence[RewardSpec]) -> list[str]:
    """Contradictions in single rewards."""
    problems = []
    for number, one in enumerate(rewards):
        given = [name for name in ("python", "command", "metric", "adapter") if getattr(one, name) is not None]
        if len(given) != 1:
            which = f"rewards[{number}] has {' and '.join(given) or 'none of python, command, metric and adapter'}"
            problems.append(f"{which}; a reward is exactly one of the four")
        elif one.column is not None and one.metric is None:
            problems.append(
                f"rewards[{number}].column names the reference of a metric, while functions and programs get all "
                "columns and reward models none; leave it out"
            )
    return problems


def shared_base_problems(config: RunConfig) -> list[str]:
    """What cannot be combined with a reward model as a reward, which shares the weights of the run's base."""
    problems = []
    if config.method is Method.FULL:
        problems.append(
            "rewards: an adapter shares its base with the policy, and method full changes that; use method lora "
            "or qlora"
        )
    if config.lora.new_tokens:
        problems.append(
            "rewards: an adapter scores the tokens of its base, which lacks those of lora.new_tokens; leave them out"
        )
    return problems


def sampling_problems(config: RunConfig) -> list[str]:
    """Contradictions in a run that samples answers, and rewards without sampling."""
    if config.objective is not ObjectiveName.GRPO:
        if not config.rewards:
            return []
        return [f"rewards are for objective grpo, and objective is {config.objective.value}; leave them out"]
    problems = single_reward_problems(config.rewards)
    if not config.rewards:
        problems.append("objective grpo needs rewards, which judge its answers: rewards: [{python: FILE.py:FUNCTION}]")
    elif not any(one.weight for one in config.rewards):
        problems.append("rewards: every weight is 0, so that all answers are worth the same; give another weight")
    if config.train.time_limit is not None:
        problems.append("train.time_limit measures steps whose rows are known, and objective grpo samples its own; "
                        "give train.steps")  # fmt: skip
    if config.lora.dropout and config.method is not Method.FULL:
        problems.append("lora.dropout trains another policy than the one that objective grpo samples from; use 0")
    if config.grpo.kl_in is KlPlace.REWARD and not config.grpo.beta:
        problems.append(
            "grpo.kl_in reward needs a grpo.beta above 0, and grpo.beta is 0; set grpo.beta, or leave grpo.kl_in out"
        )
    if config.grpo.reference is not ReferencePolicy.START and not config.grpo.beta:
        problems.append(
            f"grpo.reference {config.grpo.reference.value} has no effect while grpo.beta is 0; set grpo.beta, or leave "
            "grpo.reference out"
        )
    if config.grpo.beta and config.method is Method.FULL:
        problems.append("grpo.beta compares with a reference, which method full would hold as two more models; use 0, "
                        "or lora or qlora")  # fmt: skip
    if config.grpo.importance_sampling_level is ImportanceLevel.PRODUCT and config.grpo.loss_type is not GrpoLoss.GRPO:
        problems.append("grpo.importance_sampling_level product has one ratio for an answer of any length; use "
                        "grpo.loss_type grpo")  # fmt: skip
    if any(one.adapter is not None for one in config.rewards):
        problems += shared_base_problems(config)
    if config.compute.products is Products.INT8:
        problems.append("compute.products int8 trains another policy than the one that objective grpo samples from; "
                        "use exact")  # fmt: skip
    return problems
