"""Write a model as a Hugging Face directory: config, weights, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from veneer.io.checkpoint import Checkpoint
from veneer.io.files import write_tensors, write_text
from veneer.io.prequantised import CONFIG_KEY

_NAMES = {"torch.float32": "float32", "torch.bfloat16": "bfloat16", "torch.float16": "float16"}


def save_model(
    directory: Path,
    tensors: Mapping[str, Tensor],
    origin: Checkpoint,
    *,
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write `tensors` under their Hugging Face names, with everything else taken from `origin`.

    Args:
        directory: an existing folder.
        tensors: all weights, the first of them in the model's dtype; a tied head is left out, as its tensor is the
            embedding's.
        origin: where configuration and tokenizer come from.
        quantization: what config.json says of how `tensors` are quantised, if they are.

    Raises:
        OutputError: a file cannot be written.
    """
    dtype = str(next(iter(tensors.values())).dtype)
    config = {**origin.config, "torch_dtype": _NAMES[dtype]}
    config.pop("dtype", None)
    config.pop(CONFIG_KEY, None)
    if quantization is not None:
        config[CONFIG_KEY] = dict(quantization)
    write_text(directory / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if origin.generation_config:
        generation = json.dumps(dict(origin.generation_config), indent=2, sort_keys=True)
        write_text(directory / "generation_config.json", generation + "\n")
    write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
    origin.tokenizer().save(directory)
