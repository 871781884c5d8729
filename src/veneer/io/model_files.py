"""Writes a model as a Hugging Face directory: config, weights, tokenizer and generation settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.io.checkpoint import Checkpoint, dtype_in_headers
from veneer.io.experts import as_published
from veneer.io.files import write_tensors, write_text
from veneer.io.gguf.reader import dtype_in_gguf
from veneer.io.prequantised import CONFIG_KEY, METHOD
from veneer.io.stream import TensorWriter
from veneer.io.tokenizer import Tokenizer
from veneer.text.strict_json import only_finite, tagged, to_text

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""Dtypes in which weights are written, by their names in config.json."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_of_files(config: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype in the files of weights that bitsandbytes has not quantised; None if config.json does not say it, or if
    the files have codes and scales that are decoded when they are read (fp8, MXFP4)."""
    return None if decoded_when_read(config) else recorded_dtype(config)


def decoded_when_read(config: Mapping[str, Any]) -> bool:
    """Whether the files have codes and scales that are decoded when they are read (fp8, MXFP4)."""
    settings = config.get(CONFIG_KEY)
    return isinstance(settings, Mapping) and settings.get("quant_method", METHOD) != METHOD


def recorded_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype of the weights by config.json; None if it names none of `DTYPES`."""
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."))


def own_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype in which a model's weights are written by default.

    It is that of config.json, or else that of the weights in the files; for quantised weights it is bfloat16.

    Raises:
        ModelError: a file is damaged.
    """
    recorded, files = recorded_dtype(checkpoint.config), checkpoint.files()
    if recorded is not None:
        return recorded
    coded = checkpoint.stored or decoded_when_read(checkpoint.config)
    ggufs = [file for file in files if file.suffix.lower() == ".gguf"]
    found = None if coded else dtype_in_gguf(ggufs[0]) if ggufs else dtype_in_headers(files)
    return found or torch.bfloat16


def written_dtype(name: str, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of a name in `DTYPES`, or that of `own_dtype` for `auto`. Raises ModelError if a file is damaged."""
    return own_dtype(checkpoint) if name == "auto" else DTYPES[name]


def save_model(
    directory: Path,
    tensors: Mapping[str, Tensor],
    origin: Checkpoint,
    *,
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with new tensors. All other files are taken from `origin`.

    Args:
        directory: an existing folder.
        tensors: all weights by Hugging Face name, the first in the model's dtype. A tied head is left out.
        origin: the model from which configuration and tokenizer come.
        quantization: `quantization_config` for config.json, where `tensors` are quantised.

    Raises:
        OutputError: a file cannot be written.
    """
    published = dict(as_published(origin.config, tensors.items()))
    write_tensors(directory / WEIGHTS_FILE, published, {"format": "pt"})
    dtype = _NAMES[next(iter(tensors.values())).dtype]
    save_settings(directory, {"torch_dtype": dtype}, origin, quantization)


def stream_model(
    directory: Path,
    names: Iterable[str],
    tensors: Iterable[tuple[str, Tensor]],
    origin: Checkpoint,
    *,
    quantization: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, tuple[int, ...]]:
    """Write a model tensor by tensor, with one in memory at a time. All other files come from `origin`.

    Args:
        directory: an existing folder.
        names: all names that `tensors` may yield; they reserve room in the header.
        tensors: all weights, the embedding in the model's dtype. Without a head among them the head is tied.
        origin: the model from which configuration and tokenizer come.
        quantization: see `save_model`.
        tokenizer: a tokenizer instead of `origin`'s, if it has more tokens.

    Returns:
        Shapes of the written tensors, by name.

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
    save_settings(directory, changes, origin, quantization, tokenizer)
    return shapes


def stream_files(
    directory: Path,
    names: Iterable[str],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    origin: Checkpoint,
) -> None:
    """Write a model of any architecture tensor by tensor, by the names of `origin`'s files.

    Args:
        directory: an existing folder.
        names: all names that `tensors` may yield.
        tensors: all weights.
        dtype: dtype of the model, for config.json.
        origin: the model that all other files are taken from.

    Raises:
        OutputError: a file cannot be written.
    """
    with TensorWriter(directory / WEIGHTS_FILE, names, {"format": "pt"}) as file:
        for name, tensor in tensors:
            file.write(name, tensor)
    save_settings(directory, {"torch_dtype": _NAMES[dtype]}, origin)


def save_settings(
    directory: Path,
    changes: Mapping[str, Any],
    origin: Checkpoint,
    quantization: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write everything of a model but its weights: config.json, generation settings and tokenizer.

    Args:
        directory: an existing folder.
        changes: keys of config.json that are not `origin`'s.
        origin: where everything else comes from.
        quantization: the entry of config.json about the weights' quantisation; None if they are not quantised.
        tokenizer: in place of `origin`'s.

    Raises:
        OutputError: a file cannot be written.
    """
    config = {**origin.config, **changes}
    config.pop("dtype", None)
    config.pop(CONFIG_KEY, None)
    config |= _said_in_full(config)
    if quantization is not None:
        config[CONFIG_KEY] = dict(quantization)
    write_text(directory / "config.json", to_text(tagged(config), indent=2, sort_keys=True) + "\n")
    if origin.generation_config:
        # transformers tags no numbers in this file. A limit that is infinite is none.
        generation = to_text(only_finite(origin.generation_config), indent=2, sort_keys=True)
        write_text(directory / "generation_config.json", generation + "\n")
    (tokenizer or origin.tokenizer()).save(directory)


def _said_in_full(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling of Gemma 3 with `rope_type` where it has `type` alone: transformers 4 reads either, 5 the first."""
    scaling = config.get("rope_scaling")
    if config.get("model_type") != "gemma3_text" or not isinstance(scaling, Mapping) or "type" not in scaling:
        return {}
    return {"rope_scaling": {"rope_type": scaling["type"], **scaling}}
