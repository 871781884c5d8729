"""The evaluation loss: the same in smaller micro-batches, and ended by a signal between two of them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import examples
from helpers.training.fixed_steps import adapted
from helpers.training.mean_losses import mean_loss
from veneer.data.lazy_sequence import LazySequence
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.errors import OutOfMemory
from veneer.events import Event, Note, StageProgress, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.quant.packed import PackedLinear, decoded_weights
from veneer.training.evaluations import held_out
from veneer.training.evaluations.held_out import evaluation
from veneer.training.objectives.base import Sums
from veneer.training.over_model import OverModel
from veneer.training.parallel.lanes import Team


class Full(OverModel):
    """There is no memory for micro-batches of more than 140 tokens."""

    def sums(self, batch: MicroBatch) -> Sums:
        if len(batch.tokens) > 140:
            torch.empty(1 << 58)
        return OverModel.sums(self, batch)


def test_the_loss_of_all_micro_batches_is_measured_without_touching_anything(tiny_model: Path, tiny_data: Path) -> None:
    rows = examples(tiny_model, tiny_data)
    model, _ = adapted(tiny_model, dropout=0.5)
    model.train()
    found = evaluation(model, lambda most: pack(rows, 100), OverModel(model), ignore, Team())()
    assert found is not None
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert found.loss == pytest.approx(mean_loss(model, pack(rows, 10**6)), abs=1e-5)


def test_smaller_micro_batches_and_a_signal(tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = examples(tiny_model, tiny_data)
    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    said: list[Event] = []
    evaluate = evaluation(model, lambda most: pack(rows, most or 700), Full(model), said.append, Team())
    found = evaluate()
    assert found is not None
    assert found.loss == pytest.approx(mean_loss(model, pack(rows, 10**6)), abs=1e-5)
    notes = [event.message for event in said if isinstance(event, Note)]
    assert 1 <= len(notes) <= 3
    assert all("evaluating in micro-batches of up to" in note for note in notes)
    with pytest.raises(OutOfMemory, match=r"out of memory while evaluating.* one row of"):
        evaluation(model, lambda most: pack(rows[:1] * 2, 1), _never(model), said.append, Team())()
    monkeypatch.setattr(held_out, "stop_signalled", lambda: True)
    said.clear()
    assert evaluation(model, lambda most: pack(rows, 100), OverModel(model), said.append, Team())() is None
    assert not any(isinstance(event, StageProgress) and event.done > 1 for event in said)
    assert model.training is load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).training


class FullBefore(OverModel):
    """There is no memory for what depends on all micro-batches, where one has more than 140 tokens."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        if max(len(batch.tokens) for batch in batches) > 140:
            torch.empty(1 << 58)
        return batches


def test_smaller_micro_batches_where_what_comes_before_them_does_not_fit(tiny_model: Path, tiny_data: Path) -> None:
    rows = examples(tiny_model, tiny_data)
    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    said: list[Event] = []
    found = evaluation(model, lambda most: pack(rows, most or 700), FullBefore(model), said.append, Team())()
    assert found is not None
    assert found.loss == pytest.approx(mean_loss(model, pack(rows, 10**6)), abs=1e-5)
    assert any("evaluating in micro-batches of up to" in event.message for event in said if isinstance(event, Note))


class FullOfKept(OverModel):
    """There is no memory as long as decoded weights are kept."""

    def sums(self, batch: MicroBatch) -> Sums:
        if any(module.keeps_decoded for module in self.model.modules() if isinstance(module, PackedLinear)):
            torch.empty(1 << 58)
        return OverModel.sums(self, batch)


def test_decoded_weights_are_given_back_first(tiny_model: Path, tiny_data: Path) -> None:
    batches = pack(examples(tiny_model, tiny_data), 700)
    model = load_model(open_checkpoint(tiny_model), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    exact = mean_loss(model, batches)
    said: list[Event] = []
    with decoded_weights(model.modules(), model.dtype, 10**9):
        found = evaluation(model, lambda most: batches, FullOfKept(model), said.append, Team())()
    assert found is not None
    assert found.loss == pytest.approx(exact, rel=1e-9)
    notes = [event.message for event in said if isinstance(event, Note)]
    assert notes == ["the memory is full: quantised weights are decoded at each use from here on"]


def test_micro_batches_are_laid_one_at_a_time(tiny_model: Path, tiny_data: Path) -> None:
    packed = pack(examples(tiny_model, tiny_data), 300)
    assert len(packed) > 3
    laid: list[weakref.ref[torch.Tensor]] = []

    def make(place: int) -> MicroBatch:
        batch = packed[place]
        laid.append(weakref.ref(batch.tokens))
        # The one before is let go of when its successor is there.
        assert sum(one() is not None for one in laid) <= 2
        return batch

    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    batches = LazySequence(len(packed), make)
    found = evaluation(model, lambda most: batches, OverModel(model), ignore, Team())()
    assert found is not None
    assert found.loss == pytest.approx(mean_loss(model, packed), rel=1e-9)
    assert len(laid) > len(packed)


def _never(model: torch.nn.Module) -> OverModel:
    class Nothing(OverModel):
        def sums(self, batch: MicroBatch) -> Sums:
            raise MemoryError

    return Nothing(model)  # type: ignore[arg-type]
