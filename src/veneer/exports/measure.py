"""The cost of merging, in nats per token on the user's own rows, and how much of an update quantisation keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from veneer.assistant.assistant import Assistant, make_assistant
from veneer.backends.load import load_language_model
from veneer.config import ComputeSection, QuantSection
from veneer.data.encoded.chat import Example
from veneer.data.forms.record import Record
from veneer.enums import Backend
from veneer.evaluation.rows import prepare, refuse_overflow
from veneer.evaluation.scoring import RowScore, example_losses
from veneer.evaluation.statistics.compare import compare, measures_of
from veneer.exports.base import Source
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.quant.schemes import pack
from veneer.quantization import packed_paths


@dataclass(frozen=True, slots=True)
class Loss:
    """One model's loss on the rows, compared with that of the adapter on the base of its training."""

    loss: float
    """Nats per supervised token."""
    difference: float
    """The difference to the live adapter's loss; above 0 is worse."""
    low: float
    high: float
    """Ends of the 95 % interval of the difference, over rows (paired bootstrap)."""


@dataclass(frozen=True, slots=True)
class Survival:
    """How much of an update D is left when the merged weights are quantised again, over all quantised layers.

    Q is the round trip through the packed form. If the update is smaller than the grid's steps, most weights return to
    their old values.
    """

    update: float
    """‖D‖ / ‖W‖."""
    change: float
    """‖Q(W + D) − Q(W)‖ / ‖D‖: how far the weights move, in any direction."""
    share: float
    """⟨Q(W + D) − Q(W), D⟩ / ‖D‖²: how much of that is the update; 1 is all of it."""


@dataclass(frozen=True, slots=True)
class LossMeter:
    """Evaluation rows, and how every model is computed on them."""

    records: Sequence[Record]
    compute: ComputeSection
    backend: Backend = Backend.AUTO

    def live(self, assistant: Assistant) -> tuple[list[RowScore], list[RowScore]]:
        """Losses of base and adapter."""
        examples = self._examples(assistant)
        with assistant.as_base():
            base = _scores(assistant, examples)
        return base, _scores(assistant, examples)

    def folder(self, folder: Path) -> list[RowScore]:
        """Losses of a model's directory, as it is stored: in the compute dtype, or packed."""
        device = resolve_device(self.compute.device)
        checkpoint = open_checkpoint(folder)
        model = load_language_model(
            checkpoint,
            self.backend,
            Loading(form=WeightForm.FROZEN, dtype=resolve_dtype(self.compute.dtype, device), device=device),
        )
        model.requires_grad_(False).eval()
        assistant = make_assistant(model, checkpoint, None)
        return _scores(assistant, self._examples(assistant))

    def _examples(self, assistant: Assistant) -> list[Example]:
        return prepare(assistant, self.records).examples


def _scores(assistant: Assistant, examples: Sequence[Example]) -> list[RowScore]:
    losses = example_losses(assistant.model, examples)
    refuse_overflow(assistant, examples, [total for total, _ in losses])
    return [RowScore(total, count, None, None, None) for total, count in losses]


def beside(live: Sequence[RowScore], scores: Sequence[RowScore]) -> Loss:
    """The loss of `scores`, and its paired difference to `live`."""
    row = next(one for one in compare(live, scores) if one.name == "loss")
    return Loss(row.adapter, row.difference, row.low, row.high)


def mean_loss(scores: Sequence[RowScore]) -> float:
    """Nats per supervised token."""
    return next(one.total for one in measures_of(scores) if one.name == "loss")


def survival(source: Source, quant: QuantSection) -> Survival:
    """Quantise every changed layer that `quant` does not skip with and without the update, one at a time."""
    layers = packed_paths(source.model.spec, quant)
    return measure_survival(
        ((source.base(name), merged) for name, merged in source.merged() if name.removesuffix(".weight") in layers),
        quant,
    )


def measure_survival(pairs: Iterable[tuple[Tensor, Tensor]], quant: QuantSection) -> Survival:
    """How much of updates quantisation keeps, from pairs of a weight without and with its update (float32 or
    float64)."""
    weight = update = moved = along = 0.0
    for before, after in pairs:
        delta = after.double() - before.double()
        change = (_round_trip(after, quant) - _round_trip(before, quant)).double()
        weight += float(before.double().square().sum())
        update += float(delta.square().sum())
        moved += float(change.square().sum())
        along += float((change * delta).sum())
    if not update:
        # Nothing was trained (B is still zero): there is nothing to lose.
        return Survival(0.0, 1.0, 1.0)
    return Survival((update / weight) ** 0.5, (moved / update) ** 0.5, along / update)


def _round_trip(weight: Tensor, quant: QuantSection) -> Tensor:
    return pack(weight.float(), None, quant).dequantize(torch.float32)
