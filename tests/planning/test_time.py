"""Operations, rates and sizes on the disk."""

from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import GB, LLAMA_7B, SMOLLM2, setup
from veneer.adapters.spec import LoraSpec
from veneer.enums import Method
from veneer.errors import ConfigError
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import MB
from veneer.planning.time import CARDS, Rate, card, disk, operations, probe, step_seconds


def test_operations_are_those_of_the_products() -> None:
    of = setup()
    cut = BatchShape.of_rows(128, 1024, 8)
    plain, again = (operations(of, cut, recompute=recompute) for recompute in (False, True))
    weights = of.linear_weights * cut.step_tokens
    assert 4 * weights < plain < 6.5 * weights
    assert 1.2 < again / plain < 1.5
    full = operations(setup(method=Method.FULL), cut, recompute=False)
    assert full > plain
    rate = Rate(1e12, 0.5, measured=False)
    assert step_seconds(of, cut, rate, recompute=False) > plain / 0.5e12


def test_a_processor_that_multiplies_faster_spares_the_time_of_products_alone() -> None:
    of, cut = setup(threads=2), BatchShape.of_rows(128, 1024, 8)
    slow, fast, endless = (
        step_seconds(of, cut, Rate(flops, 1.0, measured=True), recompute=False) for flops in (1e11, 1e12, 1e30)
    )
    work = operations(of, cut, recompute=False)
    assert work < 1e11 * (slow - endless) < 1.5 * work  # attention takes longer than its operations
    assert slow - endless == pytest.approx(10 * (fast - endless))
    # Norms and activations are shared by threads; Python is not.
    alone = step_seconds(setup(), cut, Rate(1e30, 1.0, measured=True), recompute=False)
    assert endless < alone < 2 * endless
    again = step_seconds(of, cut, Rate(1e30, 1.0, measured=True), recompute=True)
    assert endless < again < 1.6 * endless
    dropout = setup(threads=2, lora=LoraSpec(rank=16, alpha=32.0, dropout=0.1))
    assert endless < step_seconds(dropout, cut, Rate(1e30, 1.0, measured=True), recompute=False) < 3 * endless
    card = setup(device="cuda")
    assert step_seconds(card, cut, Rate(1e30, 1.0, measured=False), recompute=False) < 1e-6


def test_the_rate_is_measured_in_a_moment_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(setup(), torch.device("cpu"))
    assert found.measured
    assert 1e8 < found.flops < 1e15
    monkeypatch.setattr("veneer.planning.time.timed", lambda work, device: 1.0)
    assert probe(setup(), torch.device("cpu")) == found
    # Another shape is measured by itself.
    other = probe(setup(SMOLLM2 | {"intermediate_size": 96}), torch.device("cpu"))
    assert other.flops == 2 * 512 * 576 * 96


def test_the_rate_is_measured_once_where_the_machine_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.planning.time.PROBE_AT_MOST", -1.0)  # as if more time had passed at the first look
    monkeypatch.setattr("veneer.planning.time.timed", lambda work, device: 1.0)
    found = probe(setup(SMOLLM2 | {"intermediate_size": 160}), torch.device("cpu"))
    assert found.flops == 2 * 512 * 576 * 160


def test_cards_are_known_by_name() -> None:
    assert card("RTX 4090") is CARDS["rtx4090"]
    with pytest.raises(ConfigError, match=r"did you mean 'h100'.*known: auto"):
        card("h1000")


def test_sizes_on_the_disk() -> None:
    of = setup(LLAMA_7B, Method.QLORA, lora=LoraSpec(rank=16, alpha=32.0))
    assert disk(of).result == pytest.approx(160 * MB, rel=0.01)
    assert disk(of).checkpoint == pytest.approx(3 * disk(of).result, rel=1e-4)
    assert disk(of).merged == pytest.approx(13.48 * GB, rel=0.01)
