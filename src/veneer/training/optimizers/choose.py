"""Makes the optimiser that `train.optimizer` names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.training.optimizers.adafactor import Adafactor
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.adamw8bit import AdamW8bit
from veneer.training.optimizers.base import Rule, RuleOptimizer
from veneer.training.optimizers.lion import Lion
from veneer.training.optimizers.loraplus import EMBEDDING_RATE, is_embedding_factor, rate_factors
from veneer.training.optimizers.paged import ManagedPages, PagedAdamW
from veneer.training.optimizers.sgd import SGD

PAGED = {
    OptimizerName.PAGED_ADAMW: OptimizerName.ADAMW,
    OptimizerName.PAGED_ADAMW_8BIT: OptimizerName.ADAMW_8BIT,
}
"""The paged optimisers, and the ones that replace them if nothing needs paging."""


def auto_beta2(name: OptimizerName) -> float:
    """`train.beta2: auto`: the value that each paper proposes (for Lion, section 3 of arXiv:2302.06675)."""
    return 0.99 if name is OptimizerName.LION else 0.999


def make_rule(section: TrainSection, device: torch.device) -> Rule:
    """The rule of `train.optimizer` on this device.

    Raises:
        ConfigError: a paged optimiser on CUDA without bitsandbytes.
    """
    name = section.optimizer
    betas = section.beta1, auto_beta2(name) if section.beta2 == "auto" else section.beta2
    if name in PAGED and device.type == "cuda":
        return PagedAdamW(betas, name is OptimizerName.PAGED_ADAMW_8BIT, ManagedPages())
    rules: dict[OptimizerName, Rule] = {
        OptimizerName.ADAMW: AdamW(betas),
        OptimizerName.ADAMW_8BIT: AdamW8bit(betas),
        OptimizerName.ADAFACTOR: Adafactor(),
        OptimizerName.LION: Lion(betas),
        OptimizerName.SGD: SGD(section.beta1),
    }
    return rules[PAGED.get(name, name)]


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], section: TrainSection, learning_rate: float, device: torch.device
) -> RuleOptimizer:
    """The optimiser of a run.

    Args:
        parameters: the trained parameters, by name.
        section: the settings of the run.
        learning_rate: the peak, if the settings leave it to the program.
        device: the device of the parameters.

    Raises:
        ConfigError: a paged optimiser on CUDA without bitsandbytes.
    """
    return RuleOptimizer(
        parameters,
        make_rule(section, device),
        weight_decay=section.weight_decay,
        rates=rate_factors(parameters, ratio=section.lora_plus_ratio, learning_rate=learning_rate),
    )


def notes(section: TrainSection, parameters: Mapping[str, nn.Parameter], device: torch.device) -> list[str]:
    """Consequences of the settings that may be unexpected, a sentence each."""
    sentences = []
    name = section.optimizer
    if name in PAGED and device.type != "cuda":
        sentences.append(f"train.optimizer {name.value} on a CPU is {PAGED[name].value}: main memory pages by itself")
    if section.lora_plus_ratio != 1.0 and any(is_embedding_factor(each) for each in parameters):
        sentences.append(
            f"train.lora_plus_ratio: the factors of the embedding's update learn at {EMBEDDING_RATE:g} at most, as in "
            "the authors' code and PEFT's"
        )
    return sentences
