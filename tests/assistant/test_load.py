"""A model that is loaded to answer is held as its adapter was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.events import ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.quant.packed import PackedLinear
from veneer.training.run import train


@pytest.mark.parametrize(("trained", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_an_adapter_has_the_quantised_base_of_its_training_whatever_is_computed_in(
    trained: str, asked: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The files are float32, so that rounding them to bfloat16 first gives other codes."""
    settings = ("method=qlora", "train.steps=1", "lora.rank=2")
    run = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings, f"compute.dtype={trained}"))
    request = AssistantRequest(model=str(tiny_model), adapter=run.output, compute=ComputeSection(dtype=Dtype(asked)))
    model = load_assistant(request, ignore).model
    assert model.dtype == getattr(torch, asked)
    before = load_model(open_checkpoint(tiny_model), Loading(form=WeightForm.QUANTIZED, dtype=getattr(torch, trained)))
    layers = {name: part for name, part in before.named_modules() if isinstance(part, PackedLinear)}
    assert layers
    for name, layer in layers.items():
        held = next(part for part in model.get_submodule(name).modules() if isinstance(part, PackedLinear))
        assert torch.equal(held.dequantize(torch.float32), layer.dequantize(torch.float32))
