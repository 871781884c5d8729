"""`train.optimizer` chooses, and what it means here is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.training.optimizers.adafactor import Adafactor
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.adamw8bit import AdamW8bit
from veneer.training.optimizers.choose import make_rule, notes
from veneer.training.optimizers.lion import Lion
from veneer.training.optimizers.paged import PagedAdamW
from veneer.training.optimizers.sgd import SGD

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("adamw", AdamW((0.9, 0.999))), ("adamw8bit", AdamW8bit((0.9, 0.999))), ("paged_adamw", AdamW((0.9, 0.999))),
        ("paged_adamw8bit", AdamW8bit((0.9, 0.999))), ("adafactor", Adafactor()), ("lion", Lion((0.9, 0.99))),
        ("sgd", SGD(0.9)),
    ],
)  # fmt: skip
def test_every_name_has_its_rule_with_its_own_memory(name: str, rule: object) -> None:
    assert make_rule(TrainSection(optimizer=OptimizerName(name)), CPU) == rule


def test_memories_that_are_given_are_taken() -> None:
    section = TrainSection(optimizer=OptimizerName.LION, beta1=0.95, beta2=0.98)
    assert make_rule(section, CPU) == Lion((0.95, 0.98))


@pytest.mark.parametrize("name", [OptimizerName.PAGED_ADAMW, OptimizerName.PAGED_ADAMW_8BIT])
def test_paging_is_bitsandbytes_on_a_card_and_nothing_on_a_cpu_which_is_said(name: OptimizerName) -> None:
    section = TrainSection(optimizer=name)
    rule = make_rule(section, CUDA)
    assert isinstance(rule, PagedAdamW)
    assert rule.eight_bits is (name is OptimizerName.PAGED_ADAMW_8BIT)
    other = name.value.removeprefix("paged_")
    assert notes(section, {}, CPU) == [f"train.optimizer {name.value} on a CPU is {other}: main memory pages by itself"]
    assert notes(section, {}, CUDA) == []
    assert notes(TrainSection(), {}, CPU) == []


def test_the_embeddings_own_rate_is_said() -> None:
    named = {"model.embed_tokens.lora_embedding_A": nn.Parameter(torch.zeros(2, 3))}
    assert "1e-06 at most" in notes(TrainSection(lora_plus_ratio=4.0), named, CPU)[0]
    assert notes(TrainSection(), named, CPU) == []
