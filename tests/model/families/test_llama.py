from __future__ import annotations

from typing import Any

import pytest

from helpers.models.family_variants import both_specs, refusal, variants_of
from veneer.model.shape import QkNorm

TYPES = ("mistral", "qwen2", "qwen3", "smollm3", "granite")


@pytest.mark.parametrize("variant", variants_of(*TYPES))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


@pytest.mark.parametrize("variant", variants_of("qwen2", "qwen3", "smollm3"))
def test_windows_are_in_the_layers_that_the_configuration_names(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    windows = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert [layer.attention_spec.window for layer in spec.layers] == windows
    assert (spec.qk_norm is QkNorm.SHARED) is (theirs.model_type == "qwen3")


@pytest.mark.parametrize("variant", variants_of("mistral"))
def test_mistral_has_a_window_in_all_layers_or_in_none(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    assert {layer.attention_spec.window for layer in spec.layers} == {theirs.sliding_window}


@pytest.mark.parametrize("variant", variants_of("smollm3"))
def test_smollm3_leaves_positions_out_where_its_configuration_says(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    assert [int(layer.rope is not None) for layer in spec.layers] == theirs.no_rope_layers[: spec.num_layers]


@pytest.mark.parametrize("variant", variants_of("granite"))
def test_granite_has_its_four_multipliers(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    assert spec.embedding_scale == theirs.embedding_multiplier
    assert spec.residual_scale == theirs.residual_multiplier
    assert {layer.attention_spec.scale for layer in spec.layers} == {theirs.attention_multiplier}
    assert spec.scores.scale == pytest.approx(1 / theirs.logits_scaling)


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("mistral", {"sliding_window": 0}, ["sliding_window is 0"]),
        ("mistral", {"layer_types": ["full_attention"] * 2}, ["layer_types", "sliding_window 4096"]),
        ("mistral", {"hidden_act": "gelu"}, ["'gelu'", "silu"]),
        ("qwen2", {"layer_types": ["full_attention"]}, ["each of the 2 layers"]),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, ["linear_attention"]),
        (
            "qwen3",
            {
                "layer_types": ["full_attention", "sliding_attention"],
                "use_sliding_window": True,
                "sliding_window": None,
            },
            ["no sliding_window is set"],
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
            ["use_sliding_window is False", "set use_sliding_window to true", "'full_attention'"],
        ),
        (
            "smollm3",
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
            ["use_sliding_window is False"],
        ),
        ("qwen2", {"use_sliding_window": "yes"}, ["use_sliding_window", "'yes'"]),
        ("qwen2", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["dynamic", "null"]),
        ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": "2"}}, ["factor", "'2'"]),
        ("qwen2", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor 0.5", "whole heads"]),
        ("qwen2", {"use_mrope": True}, ["use_mrope: True"]),
        (
            "smollm3",
            {"no_rope_layer_interval": 0.5, "no_rope_layers": None},
            ["interval", "a whole number"],
        ),
        ("smollm3", {"no_rope_layers": [1]}, ["no_rope_layers", "2 layers"]),
        ("granite", {"logits_scaling": 0}, ["logits_scaling", "0"]),
        ("granite", {"position_embedding_type": "nope"}, ["position_embedding_type: 'nope'"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
