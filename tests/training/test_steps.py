"""The steps of a run follow from its rows and its settings alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tiny import examples, run_config
from veneer.config import RunConfig
from veneer.data.chat import Example
from veneer.data.rows import Rows
from veneer.training.steps import PackedSteps, Packing


def steps_of(encoded: list[Example], config: RunConfig) -> PackedSteps:
    chosen = config.compute.micro_batch_tokens
    packing = Packing(share=True, pad_to_multiple_of=16)
    return PackedSteps(Rows(encoded, []), config.train, packing, None if chosen == "auto" else chosen)


def test_each_row_is_trained_exactly_once_an_epoch(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=3", "train.examples_per_step=3", "compute.micro_batch_tokens=1024")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    encoded = examples(tiny_model, tiny_data)
    seen: dict[int, Counter[tuple[int, ...]]] = {epoch: Counter() for epoch in range(3)}
    orders = []
    for step in range(1, steps_of(encoded, config).total + 1):
        source = steps_of(encoded, config)  # afresh, as after a resumption
        for batch in source.micro_batches(step):
            shared, *rest, _ = torch.split(batch.tokens, [batch.shared, *batch.lengths, batch.filler])
            for own in rest:
                seen[(step - 1) // 7][(*shared.tolist(), *own.tolist())] += 1
        orders.append([batch.tokens.tolist() for batch in source.micro_batches(step)])
    expected = Counter(tuple(row.tokens.tolist()) for row in encoded)
    assert all(counter == expected for counter in seen.values())
    assert orders[:7] != orders[7:14]


def test_the_number_of_steps_follows_from_epochs_or_is_given(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    encoded = examples(tiny_model, tiny_data)
    for assignments, steps in (
        ((), 3), (("train.epochs=2",), 6), (("train.epochs=0.5",), 2), (("train.epochs=1.01",), 4),
        (("train.steps=50",), 50), (("train.examples_per_step=100",), 1), (("train.examples_per_step=1",), 20),
        (("train.tokens_per_step=1000000", "train.epochs=2"), 2),
    ):  # fmt: skip
        source = steps_of(encoded, run_config(tiny_model, tiny_data, tmp_path, *assignments))
        assert source.total == steps, assignments
        assert source.epoch(source.total) > 0
    whole = steps_of(encoded, run_config(tiny_model, tiny_data, tmp_path, "train.epochs=2"))
    assert [whole.epoch(step) for step in range(1, 7)] == pytest.approx([n / 3 for n in range(1, 7)])
