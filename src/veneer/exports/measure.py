"""What merging costs, in nats a token on the user's own rows, and what 4 bits leave of an update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from veneer.assistant import Assistant, make_assistant
from veneer.config import ComputeSection
from veneer.data.chat import Example
from veneer.data.records import Record
from veneer.evaluation.run import prepare
from veneer.evaluation.scoring import RowScore, row_losses
from veneer.evaluation.statistics import compare, metrics
from veneer.exports.base import Source
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import open_checkpoint
from veneer.load import Holding, load_model
from veneer.quant.linear import QuantConfig, QuantLinear


@dataclass(frozen=True, slots=True)
class Loss:
    """One model's loss on the rows, beside that of the adapter on the base that it was trained beside."""

    loss: float
    """Nats per supervised token."""
    difference: float
    """To the live adapter's; above 0 is worse."""
    low: float
    high: float
    """Ends of the 95 % interval of the difference, over rows (paired bootstrap)."""


@dataclass(frozen=True, slots=True)
class Survival:
    """What is left of an update D when the merged weights are put back on a 4-bit grid, over all quantised layers.

    Q is the round trip through 4 bits. With the update smaller than the grid's steps, most weights fall back to where
    they were.
    """

    update: float
    """‖D‖ / ‖W‖."""
    change: float
    """‖Q(W + D) − Q(W)‖ / ‖D‖: how far the weights move, in whatever direction."""
    share: float
    """⟨Q(W + D) − Q(W), D⟩ / ‖D‖²: how much of that is the update; 1 is all of it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Evaluation rows, and how every model is computed on them."""

    records: Sequence[Record]
    compute: ComputeSection

    def live(self, assistant: Assistant) -> tuple[list[RowScore], list[RowScore]]:
        """Losses of base and adapter."""
        examples = self._examples(assistant)
        with assistant.adapter.disabled() if assistant.adapter else nullcontext():
            base = _scores(assistant, examples)
        return base, _scores(assistant, examples)

    def folder(self, folder: Path, quant: QuantConfig | None = None) -> list[RowScore]:
        """Losses of a model's directory, held in the compute dtype or in 4 bits."""
        device = resolve_device(self.compute.device)
        checkpoint = open_checkpoint(folder)
        model = load_model(
            checkpoint,
            holding=Holding.FROZEN if quant is None else Holding.QUANTIZED,
            dtype=resolve_dtype(self.compute.dtype, device),
            device=device,
            quant=quant,
        )
        model.requires_grad_(False).eval()
        assistant = make_assistant(model, checkpoint, None)
        return _scores(assistant, self._examples(assistant))

    def _examples(self, assistant: Assistant) -> list[Example]:
        return prepare(assistant, self.records).examples


def _scores(assistant: Assistant, examples: Sequence[Example]) -> list[RowScore]:
    return [RowScore(total, count, None, None, None) for total, count in row_losses(assistant.model, examples)]


def beside(live: Sequence[RowScore], scores: Sequence[RowScore]) -> Loss:
    """The loss of `scores`, and its paired difference to `live`."""
    row = next(one for one in compare(live, scores) if one.name == "loss")
    return Loss(row.adapter, row.difference, row.low, row.high)


def mean_loss(scores: Sequence[RowScore]) -> float:
    """Nats per supervised token."""
    return next(one.value for one in metrics(scores) if one.name == "loss")


def survival(source: Source, quant: QuantConfig) -> Survival:
    """Quantise every changed layer with and without the update, one at a time."""
    return measure_survival(
        (
            (source.base(name), merged)
            for name, merged in source.merged()
            if name.startswith("model.layers.") and merged.dim() == 2
        ),
        quant,
    )


def measure_survival(pairs: Iterable[tuple[Tensor, Tensor]], quant: QuantConfig) -> Survival:
    """Of pairs of a weight without and with its update, float32."""
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


def _round_trip(weight: Tensor, quant: QuantConfig) -> Tensor:
    packed = QuantLinear.from_weight(
        weight, block=quant.block, double_quant=quant.double_quant, codebook=quant.codebook
    )
    return packed.dequantize(torch.float32)
