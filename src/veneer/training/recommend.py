"""What veneer chooses for settings that the user leaves open, each with its reason in a sentence.

The rules are those of "LoRA Without Regret" (Schulman et al., 2025, thinkingmachines.ai/blog/lora), which swept rates
and ranks over Llama and Qwen models: adapters on all layers, alpha 32 at every rank, ten times the rate of full
fine-tuning nearly independent of rank, small batches, and a rank whose capacity exceeds what the rows have to teach.
`benchmarks/defaults.py` compares the rate with its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from veneer.adapters.targets import value_of_pattern
from veneer.config import LoraSection, RunConfig, TrainSection
from veneer.enums import Method, ObjectiveName, OptimizerName
from veneer.planning.trained import LinearShape
from veneer.text.counting import count_of
from veneer.training.steps import DEFAULT_EXAMPLES_PER_STEP, steps_in_epochs

BITS_PER_WEIGHT = 2.0
"""How many bits a trained number can hold (Allen-Zhu & Li, 2024, arXiv:2404.05405)."""
BITS_PER_TOKEN = 1.0
"""The most bits that a supervised token can teach: language models begin at about one bit (0.69 nats) a token on text
that resembles what they know."""
RANKS = (16, 32, 64, 128, 256)
"""From the default, which is cheap next to any base, to the rank of the article's largest runs."""
ENOUGH_STEPS = 100
"""Runs with fewer steps use fewer rows a step: with the same number of rows they learned more
(docs/benchmarks-tried.md)."""
FEWEST_EXAMPLES = 2
SHORT_RUN = 100
"""The most steps of a run that gets twice the rate of long ones."""
RATE_SHARES = {
    ObjectiveName.PRETRAINING: (0.3, "where LLaMA-Factory's example has 1e-4"),
    ObjectiveName.DPO: (0.02, "whose published adapters of 7 to 8 billion weights used 5e-6 to 1e-5"),
    ObjectiveName.ORPO: (0.25, "whose paper used 8e-6 where all weights of 7 billion are trained"),
    ObjectiveName.CPO: (0.4, "whose paper used 1e-4 for an adapter of 13 billion weights"),
    ObjectiveName.KTO: (0.02, "whose published adapters used the rates of dpo"),
    ObjectiveName.REWARD: (0.2, "where TRL has 1e-4 for adapters"),
    ObjectiveName.SIMPO: (0.02, "whose paper used the rates of dpo"),
    ObjectiveName.GRPO: (0.04, "between the 1e-5 that TRL advises for adapters and Unsloth's default of 5e-5"),
}
"""The share of the rate of supervised fine-tuning that an objective uses, and why."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A setting that was left open."""

    key: str
    value: int | float
    reason: str

    def note(self) -> str:
        """The sentence in which the run reports it."""
        return f"{self.key} {self.value:.3g}: {self.reason}"


def recommended_rate(
    method: Method,
    hidden_size: int,
    optimizer: OptimizerName = OptimizerName.ADAMW,
    *,
    steps: int,
    examples: int,
    objective: ObjectiveName = ObjectiveName.SFT,
) -> Recommendation:
    """A peak learning rate.

    LoRA with AdamW: 5e-5 · 10 · (2000 / hidden)^0.78, the article's fit over models from 1 to 70 billion weights, and
    up to twice that for short runs (the article found half as much again; docs/benchmarks-tried.md has our
    measurements). Below the default number of rows a step the rate falls with the square root of the number, as the
    noise of Adam's steps requires (Malladi et al., 2022, arXiv:2205.10287). Full fine-tuning: a tenth of the fit. 8-bit
    AdamW replaces AdamW at the same settings (arXiv:2110.02861), and Adafactor's updates are clipped to a root mean
    square of 1, about that of AdamW's. Lion's updates are all ±1 and need a third to a tenth of the rate (Chen et al.,
    2023, section 5); this function uses a fifth. For SGD there is no rule (`veneer.config.check` refuses `auto`).

    Args:
        method: the method of the run.
        hidden_size: the model's width.
        optimizer: the optimiser of the run.
        steps: the number of steps of the run.
        examples: the number of rows a step.
        objective: the objective of the run; RATE_SHARES has the shares of those other than `sft`.
    """
    rate = 5e-4 * (2000 / hidden_size) ** 0.78
    reason = f"the fit of LoRA Without Regret for a width of {hidden_size:,}, nearly independent of rank"
    if method is Method.FULL:
        rate /= 10
        reason = f"a tenth of LoRA's rate for a width of {hidden_size:,}, as LoRA Without Regret found it"
    else:
        short = 1 + min(1.0, SHORT_RUN / steps)
        small = min(1.0, math.sqrt(examples / DEFAULT_EXAMPLES_PER_STEP))
        rate *= short * small
        if short >= 1.05:
            reason += f", times {short:.2g} for a run of {count_of(steps, 'step')}"
        if small < 1:
            reason += f", times {small:.2g} for {count_of(examples, 'row')} a step"
    if optimizer is OptimizerName.LION:
        rate /= 5
        reason += ", and a fifth of AdamW's, since every element of Lion's updates is ±1"
    if objective in RATE_SHARES:
        share, why = RATE_SHARES[objective]
        rate *= share
        reason += f"; times {share:g} for {objective.value}, {why}"
    return Recommendation("train.learning_rate", rate, reason)


def weights_per_rank(linears: Iterable[Mapping[str, LinearShape]]) -> tuple[int, int]:
    """How many weights the adapters on these layers have for each unit of rank, and the largest rank that fits all of
    them.

    Args:
        linears: the decoder's layers, as `veneer.planning.setup.decoder_linears` returns them; only those with a rank
            count.
    """
    lines = _with_update(linears)
    weights = sum(line.inputs + line.outputs for line in lines)
    return weights, min((min(line.inputs, line.outputs) for line in lines), default=0)


def recommended_rank(completion_tokens: int, per_rank: int, largest: int) -> Recommendation:
    """A rank: the smallest of RANKS whose capacity covers what the rows have to teach.

    An adapter of `rank · per_rank` weights holds about two bits in each; a supervised token teaches about one bit.
    Below 16 there is nothing to save; above 256 the article has no evidence.

    Args:
        completion_tokens: the supervised tokens of all distinct rows (a second epoch teaches nothing new).
        per_rank: the weights of the adapter at rank 1 (`weights_per_rank`); 0 if it is only on embedding, head or
            experts, for which there is no rule.
        largest: the smaller side of the smallest target.
    """
    if not per_rank:
        reason = "the default; the rule is for linear layers of attention and feed-forward, and none gets an update"
        return Recommendation("lora.rank", RANKS[0], reason)
    needed = completion_tokens * BITS_PER_TOKEN / (BITS_PER_WEIGHT * per_rank)
    allowed = [rank for rank in RANKS if rank <= largest] or [largest]
    value = next((rank for rank in allowed if rank >= needed), allowed[-1])
    capacity = _amount(value * per_rank * BITS_PER_WEIGHT)
    taught = _amount(completion_tokens * BITS_PER_TOKEN)
    if value < needed:
        reason = f"the largest possible; it holds about {capacity} and the rows have about {taught} to teach"
    else:
        reason = f"holds about {capacity} (2 bits a weight), and the rows have about {taught} to teach (1 a token)"
    return Recommendation("lora.rank", value, reason)


def short_of_capacity(
    lora: LoraSection, adapted: Iterable[Mapping[str, LinearShape]], completion_tokens: int
) -> str | None:
    """A sentence if the given ranks are too small for the rows, by the rule of `recommended_rank`.

    Args:
        lora: the settings of the adapter, whose rank is a number.
        adapted: the linear layers, as for `weights_per_rank`; without any, there is no rule.
        completion_tokens: the supervised tokens of all distinct rows.
    """
    assert lora.rank != "auto"
    weights = sum(
        value_of_pattern(lora.rank_pattern, line.path, lora.rank) * (line.inputs + line.outputs)
        for line in _with_update(adapted)
    )
    capacity, taught = weights * BITS_PER_WEIGHT, completion_tokens * BITS_PER_TOKEN
    if not weights or capacity >= taught:
        return None
    given = f"lora.rank {lora.rank}{' with lora.rank_pattern' if lora.rank_pattern else ''}"
    return (
        f"{given} holds about {_amount(capacity)} (2 bits a weight) and the rows have about {_amount(taught)} to teach "
        "(1 a token): a larger rank may learn more"
    )


def _with_update(linears: Iterable[Mapping[str, LinearShape]]) -> list[LinearShape]:
    return [line for layer in linears for line in layer.values() if line.rank]


def _amount(bits: float) -> str:
    return f"{bits / 1e6:,.1f} Mbit" if bits >= 1e6 else f"{bits / 1e3:,.1f} kbit"


def recommended_examples(rows: int, train: TrainSection) -> Recommendation:
    """The number of rows a step: 8, or fewer if that would make less than ENOUGH_STEPS steps; 8 if the number of steps
    is given.

    Args:
        rows: the number of rows of an epoch.
        train: the length of the run.
    """
    value = DEFAULT_EXAMPLES_PER_STEP
    if train.steps is None:
        seen = rows * (train.epochs or 1.0)
        while value > FEWEST_EXAMPLES and seen / value < ENOUGH_STEPS:
            value //= 2
    reason = "LoRA loses more than full fine-tuning from large batches, and smaller ones only cost time"
    if value < DEFAULT_EXAMPLES_PER_STEP:
        reason = f"so that the {rows:,} rows of an epoch make more steps, which taught more than larger steps"
    return Recommendation("train.examples_per_step", value, reason)


def steps_of(rows: int, train: TrainSection, examples: int) -> int:
    """How many steps a run makes: exact for steps of a number of rows, an estimate for steps of a number of tokens.

    Args:
        rows: the number of rows of an epoch.
        train: the length of the run.
        examples: the number of rows a step. The last step of an epoch may have fewer.
    """
    return train.steps or max(1, steps_in_epochs(train.epochs or 1.0, math.ceil(rows / examples)))


def rows_in_step(train: TrainSection, rows: int, row_tokens: float) -> int:
    """About how many rows are in a step, if that is not left open.

    Args:
        train: the size of a step.
        rows: the number of rows of an epoch.
        row_tokens: the average number of tokens of a row.
    """
    assert train.examples_per_step != "auto"
    if train.tokens_per_step is not None:
        return max(1, min(rows, int(train.tokens_per_step / row_tokens)))
    return train.examples_per_step or DEFAULT_EXAMPLES_PER_STEP


def settle(
    config: RunConfig,
    hidden_size: int,
    adapted: Sequence[Mapping[str, LinearShape]],
    rows: int,
    completion: int,
    row_tokens: float,
) -> tuple[RunConfig, list[str]]:
    """The configuration with a value for everything that was left to `auto`, and a sentence for each choice.

    Args:
        config: the run.
        hidden_size: the width of the model.
        adapted: the model's linear layers with an adapter of rank 1; empty if all weights are trained.
        rows: the number of rows of an epoch.
        completion: the supervised tokens of all of them.
        row_tokens: the average number of tokens of a row, over all of its parts.
    """
    train = config.train
    rows *= config.grpo.num_iterations if config.objective is ObjectiveName.GRPO else 1
    choices = []
    if train.examples_per_step == "auto":
        choices.append(recommended_examples(rows, train))
        examples = int(choices[-1].value)
    else:
        examples = rows_in_step(train, rows, row_tokens)
    if train.learning_rate == "auto":
        steps = steps_of(rows, train, examples)
        choices.append(
            recommended_rate(
                config.method,
                hidden_size,
                train.optimizer,
                steps=steps,
                examples=examples,
                objective=config.objective,
            )
        )
    short = None
    if config.method is not Method.FULL:
        if config.lora.rank == "auto":
            choices.append(recommended_rank(completion, *weights_per_rank(adapted)))
        else:
            short = short_of_capacity(config.lora, adapted, completion)
    config = config.changed("train", _leaves(choices, "train")).changed("lora", _leaves(choices, "lora"))
    return config, [*(choice.note() for choice in choices), *([short] if short else [])]


def _leaves(choices: Iterable[Recommendation], section: str) -> dict[str, int | float]:
    """The choices of one section, by the last part of their keys."""
    prefix = section + "."
    return {choice.key.removeprefix(prefix): choice.value for choice in choices if choice.key.startswith(prefix)}
