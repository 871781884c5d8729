"""Steps that all have the same rows, in groups; what is trained on them; and an objective that has little memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.training.objectives.base import Sums
from veneer.training.over_model import OverModel
from veneer.training.trainable import AdapterTraining, FullTraining


@dataclass
class Cut:
    """The same rows at every step, in the given groups."""

    groups: Sequence[Sequence[Example]]
    max_tokens: int = 10**6

    def lanes(self, step: int, most: int | None = None) -> list[list[MicroBatch]]:
        return [[batch for group in self.groups for batch in pack(group, most or self.max_tokens)]]

    def epoch(self, step: int) -> float:
        return float(step)


def adapted(model_path: Path, *, dropout: float = 0.0) -> tuple[CausalLM, AdapterTraining]:
    origin = open_checkpoint(model_path)
    model = load_model(origin, Loading(dtype=torch.float32))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, dropout=dropout), seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in adapter.outermost.values():  # B = 0 would hide the gradient of A
        layer.lora_B.data.copy_(0.05 * torch.randn(layer.lora_B.shape, generator=generator))
    return model, AdapterTraining(adapter, str(model_path))


def full(model_path: Path) -> tuple[CausalLM, FullTraining]:
    origin = open_checkpoint(model_path)
    model = load_model(origin, Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    return model, FullTraining(model, origin)


CUTS: dict[str, Callable[[list[Example]], Cut]] = {
    "1x8": lambda rows: Cut([rows]),
    "2x4": lambda rows: Cut([rows[:4], rows[4:]]),
    "8x1": lambda rows: Cut([[row] for row in rows]),
    "3+5": lambda rows: Cut([rows[:3], rows[3:]]),
    "packed into 128 tokens": lambda rows: Cut([rows], 128),
    "longer than the budget": lambda rows: Cut([rows], 1),
    "backwards": lambda rows: Cut([rows[::-1]]),
}


@dataclass(frozen=True)
class SmallMemory:
    """An objective for whose micro-batches of more than so many tokens there is no memory."""

    over: OverModel
    tokens: int
    late: bool = False
    """Whether the memory is full in backward, when the graph stands."""
    before: bool = False
    """Whether it is full already where something is computed of all micro-batches."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        if self.before and max(len(batch.tokens) for batch in batches) > self.tokens:
            torch.empty(1 << 58)
        return batches

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        return self.over.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        if len(batch.tokens) <= self.tokens:
            return self.over.sums(batch)
        if self.late:
            found = self.over.sums(batch)
            full = {name: _Full.apply(term) for name, term in found.terms.items()}
            return replace(found, terms=full)
        torch.empty(1 << 58)
        raise AssertionError("that was possible")


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 58)
