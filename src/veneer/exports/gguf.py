"""A base with an adapter merged in as one GGUF model, for llama.cpp and what is built on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from veneer.exports.base import Source
from veneer.exports.merge import merged_tensors, stays_tied
from veneer.io.checkpoint import Checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import WrittenGguf, needed, write_model

MODEL_FILE = "model.gguf"


def write_gguf(
    path: Path,
    source: Source,
    quant: Quant,
    *,
    name: str = "",
    progress: Callable[[str], None] = lambda name: None,
) -> WrittenGguf:
    """Write base and adapter as one GGUF model, holding one tensor at a time.

    The sums are made in float64 and rounded, or quantised, once.

    Args:
        path: a fresh file; not atomic by itself: use it inside `atomic_folder`.
        source: base and adapter.
        quant: of the matrices; biases and norms are float32.
        name: the model's, for people.
        progress: called with the Hugging Face name of every tensor.

    Raises:
        ModelError: GGUF cannot carry the model or its tokenizer, or a value does not fit; nothing usable is left.
        OutputError: the file cannot be written.
    """
    tokenizer = source.tokenizer or source.checkpoint.tokenizer()
    return write_model(
        path, gguf_config(source), tokenizer, merged_tensors(source, set()), quant, name=name, progress=progress
    )


def gguf_config(source: Source) -> Mapping[str, Any]:
    """config.json of the merged model: its vocabulary and whether it is tied are the adapter's."""
    return {
        **source.checkpoint.config,
        "vocab_size": source.model.spec.vocab_size,
        "tie_word_embeddings": stays_tied(source),
    }


def write_gguf_base(path: Path, checkpoint: Checkpoint, quant: Quant, *, name: str = "") -> WrittenGguf:
    """Write a model without an adapter; as `write_gguf`."""
    tensors = ((tensor, checkpoint.read(tensor, torch.float32)) for tensor in needed(checkpoint.config))
    return write_model(path, checkpoint.config, checkpoint.tokenizer(), tensors, quant, name=name)
