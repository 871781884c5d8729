"""The model families that veneer's own decoder computes, by the `model_type` of their `config.json`.

A family is one function that returns a `DecoderSpec`. The decoder itself knows no family names
(docs/adding-a-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from veneer.bounds import check_numbers
from veneer.defaults import with_sizes
from veneer.errors import ModelError
from veneer.model.families.cohere import cohere
from veneer.model.families.fields import refuse
from veneer.model.families.gemma import gemma2, gemma3
from veneer.model.families.llama import granite, llama, mistral, qwen2, qwen3, smollm3
from veneer.model.families.mixtures import gpt_oss, mixtral, qwen3_moe
from veneer.model.families.olmo2 import olmo2
from veneer.model.families.phi3 import phi3
from veneer.model.families.stablelm import stablelm
from veneer.model.shape import DecoderSpec

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
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "gpt_oss": gpt_oss,
}
"""Families by Hugging Face `model_type`."""


def spec_from_hf(config: Mapping[str, Any]) -> DecoderSpec:
    """Specification of the model that a config.json describes.

    Raises:
        ModelError: the architecture is unknown, or the configuration is incomplete or has impossible values.
    """
    check_numbers(config)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    if not config.get("is_causal", True):
        raise ModelError(
            f"is_causal of config.json is {config['is_causal']!r}: each token sees the later ones too, and veneer "
            "computes causal language models only"
        )
    refuse(config, {"per_layer_config": (None, {})})
    return family(with_sizes(config))
