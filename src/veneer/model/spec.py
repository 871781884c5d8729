"""Which families there are, by the `model_type` of their `config.json`.

A family is one function to a `DecoderSpec`; the decoder itself knows no family names (docs/adding-a-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from veneer.errors import ModelError
from veneer.model.families.gemma import gemma2, gemma3
from veneer.model.families.llama import granite, llama, mistral, qwen2, qwen3, smollm3
from veneer.model.families.others import cohere, olmo2, phi3, stablelm
from veneer.model.shape import DecoderSpec, RopeKind, RopeSpec

__all__ = ["FAMILIES", "DecoderSpec", "RopeKind", "RopeSpec", "spec_from_hf"]

FAMILIES: dict[str, Callable[[Mapping[str, Any]], DecoderSpec]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "phi3": phi3,
    "olmo2": olmo2,
    "smollm3": smollm3,
    "granite": granite,
    "cohere": cohere,
    "stablelm": stablelm,
}
"""Families by Hugging Face `model_type`."""


def spec_from_hf(config: Mapping[str, Any]) -> DecoderSpec:
    """The specification of the model that `config` (a `config.json`) describes.

    Raises:
        ModelError: the architecture is unknown, or the configuration is incomplete.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return family(config)
