"""What a config.json leaves out is what the installed transformers takes, in every family, computed and exported."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING, GptOssConfig

from veneer.defaults import GPT_OSS_SCALING
from veneer.io.gguf.config import completed
from veneer.model.families.choose import FAMILIES, spec_from_hf

HEADS = 64
"""A multiple of each family's key heads."""
NULL_IS_REFUSED = ("mistral", "gemma2", "gemma3_text", "stablelm", "mixtral", "qwen3_moe", "gpt_oss")
"""Families whose key heads transformers takes no null for."""


def silent(kind: str, **more: Any) -> dict[str, Any]:
    """A configuration without the sizes that have defaults."""
    return {
        "model_type": kind, "vocab_size": 128, "hidden_size": 16 * HEADS, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": HEADS, "rms_norm_eps": 1e-6, "layer_norm_eps": 1e-6,
        "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **more,
    }  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_sizes_that_are_missing(kind: str) -> None:
    config = silent(kind)
    theirs = CONFIG_MAPPING[kind](**{key: value for key, value in config.items() if key != "model_type"})
    for spec in (spec_from_hf(config), spec_from_hf(config | {"max_position_embeddings": None})):
        assert spec.max_positions == theirs.max_position_embeddings
        assert spec.num_kv_heads == theirs.num_key_value_heads
    for full in (completed(config), completed(config | {"max_position_embeddings": None})):
        assert full["max_position_embeddings"] == theirs.max_position_embeddings
        assert full["num_key_value_heads"] == theirs.num_key_value_heads


@pytest.mark.parametrize("kind", FAMILIES)
def test_key_heads_of_null_are_as_many_as_query_heads(kind: str) -> None:
    config = silent(kind, num_key_value_heads=None)
    if kind not in NULL_IS_REFUSED:
        theirs = CONFIG_MAPPING[kind](**{key: value for key, value in config.items() if key != "model_type"})
        assert theirs.num_key_value_heads == HEADS
    assert spec_from_hf(config).num_kv_heads == completed(config)["num_key_value_heads"] == HEADS


def test_sizes_that_are_given_stay() -> None:
    config = silent("qwen3", num_key_value_heads=2, max_position_embeddings=77)
    spec = spec_from_hf(config)
    assert (spec.num_kv_heads, spec.max_positions) == (2, 77)


def test_the_scaling_of_gpt_oss_is_that_of_transformers() -> None:
    theirs = dict(GptOssConfig().rope_parameters)
    theta = theirs.pop("rope_theta")
    assert theirs == dict(GPT_OSS_SCALING)
    assert theta == 150_000.0
