"""The text model of a checkpoint with more than one model (Gemma 3 from 4B on also has a vision tower).

It is read as a text-only model, with the configuration in `text_config`, and without the prefixes of its names.
Adapters and merged models belong to that text-only model, which transformers loads as `gemma3_text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.errors import ModelError

COMPOSITE: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]},
}
"""Model types whose text model is read, and the values for keys that its `text_config` lacks. The composite's own
`architectures` names the class with the vision tower, and other programs need this key to recognise a model."""
PREFIXES = {"language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head."}
"""Prefixes of the text model's names in files of transformers 4 and 5, and what replaces them."""
SHARED = (
    "bos_token_id", "eos_token_id", "pad_token_id",
    "dtype", "torch_dtype", "quantization_config", "tie_word_embeddings",
)  # fmt: skip
"""Settings of the whole checkpoint that apply to the text model unless `text_config` has its own."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Configuration of the text model, which is `config` itself for a text-only model.

    Raises:
        ModelError: `text_config` is missing.
    """
    defaults = COMPOSITE.get(str(config.get("model_type")))
    if defaults is None:
        return config
    own = config.get("text_config")
    if not isinstance(own, Mapping):
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} has no text_config: use the configuration from "
            "the model's original repository"
        )
    said = {key: value for key, value in own.items() if value is not None or key not in defaults}
    return {**{key: config[key] for key in SHARED if key in config}, **defaults, **said}


def text_name(name: str) -> str | None:
    """Name of a tensor in the text model, or None for a tensor of another model."""
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name if name.startswith("lm_head.") else None
