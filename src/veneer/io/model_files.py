"""Write a model as a Hugging Face directory: config, weights, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.io.checkpoint import Checkpoint
from veneer.io.experts import as_published
from veneer.io.files import write_tensors, write_text
from veneer.io.prequantised import CONFIG_KEY
from veneer.io.stream import TensorWriter
from veneer.io.tokenizer import Tokenizer

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""What weights are written in, by the name that config.json has for it."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def recorded_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype that config.json says the weights are stored in; None where it names none of those that are written."""
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."))


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
    published = dict(as_published(origin.config, tensors.items()))
    write_tensors(directory / WEIGHTS_FILE, published, {"format": "pt"})
    dtype = _NAMES[next(iter(tensors.values())).dtype]
    _save_rest(directory, {"torch_dtype": dtype}, origin, quantization, origin.tokenizer())


def stream_model(
    directory: Path,
    names: Iterable[str],
    tensors: Iterable[tuple[str, Tensor]],
    origin: Checkpoint,
    *,
    quantization: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, tuple[int, ...]]:
    """Write tensors as they come, holding one at a time, with everything else taken from `origin`.

    Args:
        directory: an existing folder.
        names: every name that `tensors` may yield, or as many and as long ones.
        tensors: all weights, the embedding in the model's dtype. A head among them says that the embedding is not the
            head; without one it is.
        origin: where configuration and tokenizer come from.
        quantization: as in `save_model`.
        tokenizer: in place of `origin`'s, where it knows more tokens.

    Returns:
        The shape of every tensor that was written.

    Raises:
        OutputError: a file cannot be written.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    changes: dict[str, Any] = {}
    with TensorWriter(directory / WEIGHTS_FILE, names, {"format": "pt"}) as file:
        for name, tensor in as_published(origin.config, tensors):
            file.write(name, tensor)
            shapes[name] = tuple(tensor.shape)
            if name == "model.embed_tokens.weight":
                changes = {"torch_dtype": _NAMES[tensor.dtype], "vocab_size": len(tensor)}
    changes["tie_word_embeddings"] = "lm_head.weight" not in shapes
    _save_rest(directory, changes, origin, quantization, tokenizer or origin.tokenizer())
    return shapes


def stream_files(
    directory: Path,
    names: Iterable[str],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    origin: Checkpoint,
) -> None:
    """Write the tensors of any architecture as they come, under the names of `origin`'s files.

    Args:
        directory: an existing folder.
        names: every name that `tensors` may yield.
        tensors: all weights.
        dtype: of the model, for its configuration.
        origin: where everything else comes from.

    Raises:
        OutputError: a file cannot be written.
    """
    with TensorWriter(directory / WEIGHTS_FILE, names, {"format": "pt"}) as file:
        for name, tensor in tensors:
            file.write(name, tensor)
    _save_rest(directory, {"torch_dtype": _NAMES[dtype]}, origin, None, origin.tokenizer())


def _save_rest(
    directory: Path,
    changes: Mapping[str, Any],
    origin: Checkpoint,
    quantization: Mapping[str, Any] | None,
    tokenizer: Tokenizer,
) -> None:
    """Configuration and generation settings of `origin`, and the tokenizer."""
    config = {**origin.config, **changes}
    config.pop("dtype", None)
    config.pop(CONFIG_KEY, None)
    if quantization is not None:
        config[CONFIG_KEY] = dict(quantization)
    write_text(directory / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if origin.generation_config:
        generation = json.dumps(dict(origin.generation_config), indent=2, sort_keys=True)
        write_text(directory / "generation_config.json", generation + "\n")
    tokenizer.save(directory)
