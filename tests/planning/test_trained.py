"""Trained tensors are counted as the model has them."""

from __future__ import annotations

import numpy as np
import torch

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.enums import Method
from veneer.io.checkpoint import Checkpoint
from veneer.loading.expected import expected_tensors
from veneer.loading.load import load_model
from veneer.planning.setup import Setup


def test_trained_weights_are_counted(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert Setup(spec=model.spec, method=Method.FULL, dtype=torch.bfloat16).trained_weights == whole
    assert whole == sum(int(np.prod(shape)) for shape in expected_tensors(model.spec).values())
    for targets in ("all-linear", ("q_proj", "down_proj"), r".*layers\.2\..*"):
        adapter = inject(load_model(checkpoint), LoraSpec(rank=3, alpha=1.0, target_modules=targets))
        of = Setup(
            spec=model.spec,
            method=Method.LORA,
            dtype=torch.bfloat16,
            lora=LoraSpec(rank=3, alpha=1.0, target_modules=targets),
        )
        assert of.trained_weights == sum(tensor.numel() for tensor in adapter.parameters())
