from __future__ import annotations

from typing import Any

import pytest

from helpers.models.family_variants import both_specs, refusal, variants_of
from veneer.model.shape import NormPlacement, QkNorm


@pytest.mark.parametrize("variant", variants_of("stablelm"))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


@pytest.mark.parametrize("variant", variants_of("stablelm"))
def test_what_sets_stablelm_apart_is_what_its_configuration_says(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    assert spec.attention_bias is theirs.use_qkv_bias
    assert not spec.output_bias
    assert (spec.qk_norm is QkNorm.OWN_MODULES) is theirs.qk_layernorm
    assert (spec.norm_placement is NormPlacement.PARALLEL) is theirs.use_parallel_residual
    assert spec.rope.turned(spec.head_dim) == int(spec.head_dim * theirs.rope_parameters["partial_rotary_factor"])


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("stablelm", {"layer_norm_eps": None}, ["layer_norm_eps: missing"]),
        ("stablelm", {"partial_rotary_factor": 0.2}, ["partial_rotary_factor 0.2", "even"]),
        ("stablelm", {"use_parallel_residual": 1}, ["use_parallel_residual", "1", "true or false"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
