"""Configurations of every family that the own decoder computes, with the settings in which its models differ."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from helpers.models.tiny_models import SHAPES
from veneer.errors import ModelError
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import DecoderSpec

YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}


def longrope(pairs: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [2.0 + 0.5 * i for i in range(pairs)],
    }


QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
GEMMA2 = {
    "head_dim": 16,
    "sliding_window": 8,
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 6.0,
}
GEMMA3 = {
    "head_dim": 16,
    "sliding_window": 8,
    "query_pre_attn_scalar": 20,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.1, "logits_scaling": 2.5}
COHERE = {"layer_norm_eps": 1e-5, "logit_scale": 0.4}
PHI = {"original_max_position_embeddings": 32}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": 8}),
    "mistral without window": ("mistral", {"sliding_window": None, "head_dim": 24}),
    "mistral yarn": ("mistral", {"sliding_window": 8, "rope_parameters": YARN}),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", QWEN_WINDOW | {"tie_word_embeddings": True}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3 window": ("qwen3", QWEN_WINDOW | {"head_dim": 16, "attention_bias": True}),
    "qwen3 yarn": ("qwen3", {"head_dim": 16, "rope_parameters": YARN | {"attention_factor": 0.7, "beta_fast": 20.0,
                                                                        "beta_slow": 2.0, "truncate": False}}),
    "qwen3 yarn mscale": ("qwen3", {"head_dim": 16, "rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}}),
    "gemma2": ("gemma2", GEMMA2 | {"tie_word_embeddings": True}),
    "gemma2 without caps": ("gemma2", GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2 biases": ("gemma2", GEMMA2 | {"attention_bias": True}),
    "gemma3": ("gemma3_text", GEMMA3 | {"tie_word_embeddings": True}),
    "gemma3 linear": ("gemma3_text", GEMMA3 | {"rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}}),
    "gemma3 pattern": ("gemma3_text", GEMMA3 | {"layer_types": None, "num_hidden_layers": 6}),
    "gemma3 cap": ("gemma3_text", GEMMA3 | {"final_logit_softcapping": 4.0}),
    "phi3": ("phi3", {}),
    "phi3 window": ("phi3", {"sliding_window": 8}),
    "phi3 longrope": ("phi3", PHI | {"rope_parameters": longrope(8)}),
    "phi3 longrope within": ("phi3", {"original_max_position_embeddings": 128, "rope_parameters": longrope(8)}),
    "phi4 mini": ("phi3", PHI | {"partial_rotary_factor": 0.75, "rope_parameters": longrope(6),
                                 "tie_word_embeddings": True}),
    "phi4 mini partial": ("phi3", {"partial_rotary_factor": 0.75}),
    "olmo2": ("olmo2", {}),
    "olmo2 biases": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "smollm3 window": ("smollm3", {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 8}),
    "smollm3 yarn": ("smollm3", {"no_rope_layers": [1, 0], "rope_parameters": YARN, "mlp_bias": True}),
    "granite": ("granite", GRANITE),
    "granite biases": ("granite", GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
                                             "rope_parameters": LINEAR}),
    "cohere": ("cohere", COHERE | {"tie_word_embeddings": True}),
    "cohere norms": ("cohere", COHERE | {"use_qk_norm": True, "attention_bias": True, "rope_parameters": LLAMA3}),
    "stablelm": ("stablelm", {}),
    "stablelm norms": ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "stablelm parallel": ("stablelm", {"use_parallel_residual": True, "partial_rotary_factor": 1.0}),
}  # fmt: skip
"""Name of a variant to its model_type and what it has beside `tiny_models.SHAPES`."""


def variants_of(*model_types: str) -> list[str]:
    """Names of the variants of some model types."""
    return [name for name, (model_type, _) in FAMILIES.items() if model_type in model_types]


def both_specs(variant: str) -> tuple[DecoderSpec, DecoderSpec, Any]:
    """The specification from a variant's few settings, that from transformers' full configuration, and the latter."""
    model_type, changes = FAMILIES[variant]
    settings = {**SHAPES, **changes}
    if model_type in ("cohere", "stablelm"):
        settings.setdefault("layer_norm_eps", 1e-5)
    theirs = AutoConfig.for_model(model_type, **settings)
    return spec_from_hf({**settings, "model_type": model_type}), spec_from_hf(theirs.to_dict()), theirs


def refusal(model_type: str, changes: dict[str, Any]) -> str:
    """The message by which a configuration is refused."""
    with pytest.raises(ModelError) as caught:
        spec_from_hf({**SHAPES, "layer_norm_eps": 1e-5, "model_type": model_type} | changes)
    return str(caught.value)
