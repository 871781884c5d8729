"""Inputs of layers that are in the main memory: what is computed is the same, and few of them are on the card.

The copier is a fake one; CUDA's own runs only where there is a card.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.models.tiny_models import documents, ours, packed_hidden, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.gpu.parked import LEAVING_INPUTS, ON_CARD, CardCopier, ParkedInputs
from veneer.loading.forms import WeightForm
from veneer.model.recompute import Recomputation
from veneer.planning.choose import Limit, MicroBatchChoice
from veneer.planning.setup import Setup
from veneer.training.run import train


@dataclass
class FakeCopier:
    """Copies at the latest time that is allowed, when the computation waits, so that what is used too early is wrong.

    Tensors of the card are told by being made here or given to `away`.
    """

    log: list[str] = field(default_factory=list)
    on_card: list[weakref.ref[Tensor]] = field(default_factory=list)
    most: int = 0

    def away(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        return self._begin("away", torch.full_like(x, torch.nan), x, x)

    def back(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        own = torch.full_like(x, torch.nan)
        return self._begin("back", own, x, own)

    def _begin(self, what: str, target: Tensor, source: Tensor, card: Tensor) -> tuple[Tensor, Callable[[], None]]:
        number = sum(entry.startswith(what) for entry in self.log)
        self.log.append(f"{what} {number}")
        self.on_card.append(weakref.ref(card))
        self.most = max(self.most, self.alive())
        original = source.clone()

        def wait() -> None:
            assert torch.equal(source, original), "it was changed before it was copied"
            target.copy_(source)
            self.log.append(f"waited for {what} {number}")

        return target, wait

    def alive(self) -> int:
        """Tensors on the card that something still holds."""
        return len({id(x) for one in self.on_card if (x := one()) is not None})


def test_inputs_come_back_one_ahead_and_few_are_on_the_card() -> None:
    copier = FakeCopier()
    parked = ParkedInputs(copier)
    expected = [torch.full((3, 4), float(number)) for number in range(6)]
    places = [parked.put(x.clone()) for x in expected]
    assert places == [0, 1, 2, 3, 4, 5]
    assert copier.alive() == LEAVING_INPUTS
    forward = list(copier.log)
    assert forward == [
        "away 0", "away 1", "waited for away 0", "away 2", "waited for away 1", "away 3", "waited for away 2", "away 4",
        "waited for away 3", "away 5",
    ]  # fmt: skip
    for place in reversed(places):
        x = parked.take(place)
        assert torch.equal(x, expected[place])
        assert copier.log.count(f"back {5 - place + 1}") == (place > 0), "the one before it is on its way"
        del x
    assert copier.most <= ON_CARD
    backward = copier.log[len(forward) :]
    assert backward[:4] == ["waited for away 4", "waited for away 5", "back 0", "waited for back 0"]
    assert sum(entry.startswith("back") for entry in backward) == 6


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_parking_changes_no_bit(tmp_path: Path, form: WeightForm, dropout: float) -> None:
    model = ours(tiny_llama(1), tmp_path, form=form).train()
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, dropout=dropout), seed=1)
    for layer in adapter.outermost.values():
        layer.lora_B.data.normal_(std=0.05)
    texts = documents([7, 20, 3], seed=4)
    copier = FakeCopier()

    def gradients() -> list[Tensor]:
        adapter.generator.manual_seed(11)
        for parameter in adapter.parameters():
            parameter.grad = None
        packed_hidden(model, texts).square().sum().backward()
        return [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]

    model.recompute(Recomputation(adapter.generator))
    kept = gradients()
    model.park_inputs(copier)
    for _ in range(2):
        found = gradients()
        assert len(found) == len(kept) > 0
        assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))
    layers = model.spec.num_layers
    assert sum(entry.startswith("back") for entry in copier.log) == 2 * layers
    with torch.no_grad():
        before = len(copier.log)
        packed_hidden(model, texts)
        assert len(copier.log) == before, "without gradients nothing is kept"


def test_a_run_whose_plan_has_no_room_parks_inputs_and_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model", tied=False)
    data = write_rows(tmp_path / "rows.jsonl", rows(6))

    def trained(name: str) -> bytes:
        train(run_config(model, data, tmp_path / name, "train.steps=2", "compute.recompute=layers"))
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    plain = trained("plain")
    copiers: list[FakeCopier] = []

    def copier(device: torch.device) -> FakeCopier:
        copiers.append(FakeCopier())
        return copiers[-1]

    def full(setup: Setup, chosen: MicroBatchChoice, limit: Limit) -> MicroBatchChoice:
        return replace(chosen, memory=replace(chosen.memory, hosted=1, parked=1))

    monkeypatch.setattr("veneer.planning.choose._with_decoded", full)
    monkeypatch.setattr("veneer.training.memory_use.as_planned.CardCopier", copier)
    assert trained("parked") == plain
    assert len(copiers) == 1
    assert any(entry.startswith("waited for back") for entry in copiers[0].log)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
def test_a_cards_own_copies_are_equal() -> None:
    device = torch.device("cuda", 0)
    parked = ParkedInputs(CardCopier(device))
    expected = [torch.randn(512, 1024, device=device) for _ in range(8)]
    places = [parked.put(x.clone()) for x in expected]
    for place in reversed(places):
        assert torch.equal(parked.take(place), expected[place])
