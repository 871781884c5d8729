"""The memory of an export: whole models in float32, which are held only to be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from veneer.exports.memory import COPIES, START, export_memory, float32_bytes
from veneer.exports.request import Target
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model


def test_the_weights_are_counted_in_float32(tiny_model: Path) -> None:
    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    assert float32_bytes(open_checkpoint(tiny_model)) == sum(4 * one.numel() for one in model.parameters())


@pytest.mark.parametrize("target", Target)
def test_comparing_answers_takes_whole_models_beside_the_tensors(tiny_model: Path, target: Target) -> None:
    small = open_checkpoint(tiny_model)
    found = export_memory(small, target)
    assert found.tensors <= found.whole
    assert found.whole >= START + COPIES[target] * float32_bytes(small)
