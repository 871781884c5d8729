"""The text model of a checkpoint that holds more than one (Gemma 3 from 4B on has a vision tower beside it).

It is read as the text-only model that it is: with the configuration of `text_config`, and names without what stands in
front of them. Adapters and merged models are those of that text-only model, which transformers loads as `gemma3_text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.errors import ModelError

COMPOSITE = frozenset({"gemma3"})
"""Model types whose text model is read."""
PREFIXES = {"language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head."}
"""What names of the text model begin with, in files of transformers 4 and 5."""
SHARED = (
    "bos_token_id", "eos_token_id", "pad_token_id",
    "dtype", "torch_dtype", "quantization_config", "tie_word_embeddings",
)  # fmt: skip
"""Settings of the whole that hold for its text model where that does not say otherwise."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text model; `config` itself where there is nothing else.

    Raises:
        ModelError: the configuration should have one, and has none.
    """
    if config.get("model_type") not in COMPOSITE:
        return config
    own = config.get("text_config")
    if not isinstance(own, Mapping):
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} has no text_config: take the configuration from "
            "the model's original repository"
        )
    return {key: config[key] for key in SHARED if key in config} | {"model_type": "gemma3_text"} | dict(own)


def text_name(name: str) -> str | None:
    """The name that a tensor has in the text model, or None for one of another part."""
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name if name.startswith("lm_head.") else None
