"""Folders of saved adapters, written by veneer and by PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.models.tiny_models import tiny_llama
from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import WEIGHTS_FILE, save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.model.decoder import CausalLM

TARGETS: dict[str, str | tuple[str, ...]] = {
    "all": "all-linear",
    "subset": ("q_proj", "v_proj"),
    "paths": ("layers.1.mlp.up_proj", "self_attn.o_proj"),
    "expression": r".*\.layers\.[01]\.(self_attn|mlp)\.(k|gate)_proj",
    "everything": ".*_proj",
}
"""Every way to say which layers an adapter goes on."""


def randomise(parameters: list[Tensor], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def write_adapter(folder: Path, model: CausalLM, **settings: Any) -> Adapter:
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))
    randomise(list(adapter.parameters()))
    save_adapter(folder, adapter, base="owner/base", revision="main")
    return adapter


def rewrite_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write the tensors of a saved adapter again, changed."""
    save_file(change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)


def their_adapter(**settings: Any) -> peft.PeftModel:
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings))
    theirs = peft.get_peft_model(tiny_llama(), config)
    randomise([p for name, p in theirs.named_parameters() if "lora_" in name], seed=5)
    return theirs.eval()
