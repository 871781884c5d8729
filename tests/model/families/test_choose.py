"""A specification says what transformers reads from the same configuration, or names what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from veneer.errors import ModelError
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import RopeKind, RopeSpec

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return {key: value for key, value in (plain | changes).items() if value is not ...}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 1, "head_dim": 32},
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        {"max_position_embeddings": 777, "rms_norm_eps": 1e-3},
    ],
)
def test_shapes_are_those_that_transformers_reads(changes: dict[str, Any]) -> None:
    theirs = LlamaConfig(**config(**changes))
    for source in (config(**changes), theirs.to_dict()):
        spec = spec_from_hf(source)
        assert (spec.vocab_size, spec.hidden_size, spec.intermediate_size) == (100, 64, 96)
        assert (spec.num_layers, spec.num_heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
        assert (spec.num_kv_heads, spec.head_dim) == (theirs.num_key_value_heads, theirs.head_dim)
        assert (spec.attention_bias, spec.mlp_bias) == (theirs.attention_bias, theirs.mlp_bias)
        assert (spec.tied_head, spec.norm_eps) == (theirs.tie_word_embeddings, theirs.rms_norm_eps)
        assert spec.max_positions == theirs.max_position_embeddings


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, RopeSpec(theta=5e5)),
        ({"rope_type": "default"}, RopeSpec(theta=5e5)),
        ({"type": "linear", "factor": 4}, RopeSpec(theta=5e5, kind=RopeKind.LINEAR, factor=4.0)),
        (
            LLAMA3,
            RopeSpec(
                theta=5e5, kind=RopeKind.LLAMA3, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_positions=64,
            ),
        ),
        (
            {"rope_type": "veneer_factors", "factors": [1, 2.5] * 4},
            RopeSpec(theta=5e5, kind=RopeKind.FACTORS, factors=(1.0, 2.5) * 4),
        ),
    ],
)  # fmt: skip
def test_both_layouts_of_rope_settings_mean_the_same(scaling: dict[str, Any] | None, expected: RopeSpec) -> None:
    assert spec_from_hf(config(rope_theta=5e5, rope_scaling=scaling)).rope == expected
    newer = {"rope_theta": 5e5, **(scaling or {})}
    assert spec_from_hf(config(rope_parameters=newer)).rope == expected
    assert spec_from_hf(config(rope_theta=1.0, rope_parameters=newer)).rope == expected


def test_positions_of_the_trained_context_default_to_the_longest() -> None:
    scaling = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    assert spec_from_hf(config(max_position_embeddings=512, rope_scaling=scaling)).rope.original_max_positions == 512


def test_a_range_of_yarn_is_cut_to_whole_pairs_unless_the_configuration_says_otherwise() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    cuts = {True: ({}, {"truncate": True}), False: ({"truncate": False}, {"truncate": None})}
    for cut, settings in cuts.items():
        for one in settings:
            assert spec_from_hf(config(rope_scaling=yarn | one)).rope.truncate is cut


def test_rope_theta_defaults_as_in_transformers() -> None:
    assert spec_from_hf(config()).rope.theta == LlamaConfig().rope_parameters["rope_theta"] == 10_000.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ["'mamba'", "supported: cohere, gemma2", "llama"]),
        ({"model_type": ...}, ["None", "supported: cohere, gemma2", "llama"]),
        (
            {"vocab_size": ..., "hidden_size": "64", "rms_norm_eps": ..., "num_hidden_layers": True},
            ["vocab_size: missing", "hidden_size: '64'", "rms_norm_eps: missing", "num_hidden_layers: True"],
        ),
        ({"num_attention_heads": 0, "intermediate_size": -1}, ["num_attention_heads: 0", "intermediate_size: -1"]),
        ({"hidden_size": 64.5}, ["hidden_size: 64.5"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps: nan"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads 4", "num_key_value_heads 3"]),
        ({"num_key_value_heads": 0}, ["num_key_value_heads: 0"]),
        ({"head_dim": 15}, ["head_dim is 15"]),
        ({"hidden_size": 3}, ["head_dim is 0"]),
        ({"max_position_embeddings": "long"}, ["max_position_embeddings: 'long'"]),
        ({"hidden_act": "gelu"}, ["'gelu'", "silu"]),
        ({"rope_theta": "big"}, ["rope_theta", "'big'"]),
        ({"rope_theta": -1}, ["rope_theta", "-1"]),
        ({"rope_scaling": [1]}, ["rope_scaling", "[1]"]),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2}}, ["'spiral'", "linear", "llama3"]),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, ["'dynamic'", "null"]),
        ({"rope_scaling": {"factor": 2, "type": None}}, ["None", "linear"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "None"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["factor", "0"]),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": None}}, ["low_freq_factor", "None"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, ["high_freq_factor"]),
        ({"rope_scaling": {"rope_type": "veneer_factors", "factors": [1.0] * 7}}, ["7 factors", "needs 8"]),
        ({"rope_parameters": {"full_attention": LLAMA3}}, ["'full_attention'", "all rotated alike"]),
        ({"is_causal": False}, ["is_causal", "False", "causal language models only"]),
        ({"is_causal": None}, ["is_causal", "None"]),
        ({"per_layer_config": {"1": {"rms_norm_eps": 0.1}}}, ["per_layer_config", "rms_norm_eps", "backend hf"]),
    ],
)  # fmt: skip
def test_what_is_not_a_usable_configuration_is_refused_with_every_reason(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        spec_from_hf(config(**changes))
    assert [word for word in words if word not in str(caught.value)] == []
