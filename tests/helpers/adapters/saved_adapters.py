"""Saved adapters that are combined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PreTrainedModel

from helpers.models.tiny_models import tiny_llama

NAMES = ["q_proj", "v_proj", "down_proj", "lm_head"]
FOLDERS = ("first", "second", "third")


def their_adapters(
    folder: Path, settings: Sequence[dict[str, Any]], base: PreTrainedModel | None = None
) -> peft.PeftModel:
    """PEFT's model with adapters of random factors, saved in folders of their names. The base is a tiny Llama unless
    another is given."""
    theirs = None
    for name, extra in zip(FOLDERS, settings, strict=False):
        config = peft.LoraConfig(
            **({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": NAMES} | extra)
        )
        if theirs is None:
            theirs = peft.get_peft_model(base or tiny_llama(), config, adapter_name=name)
        else:
            theirs.add_adapter(name, config)
    assert theirs is not None
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    embedded = any({"lm_head", "embed_tokens"} & set(one.target_modules) for one in theirs.peft_config.values())
    theirs.save_pretrained(folder, save_embedding_layers=embedded)  # what PEFT does itself, with a warning
    return theirs.eval()
