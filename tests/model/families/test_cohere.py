from __future__ import annotations

from typing import Any

import pytest

from helpers.models.family_variants import both_specs, refusal, variants_of
from veneer.model.shape import NormPlacement, QkNorm, RopeLayout


@pytest.mark.parametrize("variant", variants_of("cohere"))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


@pytest.mark.parametrize("variant", variants_of("cohere"))
def test_what_sets_command_r_apart_is_what_its_configuration_says(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    assert spec.scores.scale == theirs.logit_scale
    assert (spec.qk_norm is QkNorm.OWN) is theirs.use_qk_norm
    assert (spec.attention_bias, spec.output_bias) == (theirs.attention_bias, theirs.attention_bias)
    assert spec.norm_eps == theirs.layer_norm_eps
    assert spec.norm_placement is NormPlacement.PARALLEL
    assert {layer.rope.layout for layer in spec.layers if layer.rope} == {RopeLayout.NEIGHBOURS}


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("cohere", {"layer_norm_eps": None}, ["layer_norm_eps: missing"]),
        ("cohere", {"logit_scale": 0}, ["logit_scale", "0"]),
        ("cohere", {"hidden_act": "relu"}, ["'relu'", "silu"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
