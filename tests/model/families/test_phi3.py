from __future__ import annotations

from typing import Any

import pytest

from helpers.models.family_variants import both_specs, longrope, refusal, variants_of
from helpers.models.tiny_models import SHAPES
from veneer.model.families.phi3 import phi3
from veneer.model.shape import Projections, RopeKind


@pytest.mark.parametrize("variant", variants_of("phi3"))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_early_names_of_longrope_mean_longrope(name: str, key: str) -> None:
    scaling = {**longrope(8), "rope_type": name}
    config = {**SHAPES, "model_type": "phi3", "original_max_position_embeddings": 32, key: scaling}
    spec = phi3(config)
    assert spec.rope.kind is RopeKind.LONGROPE
    assert spec.rope.long_factors == tuple(scaling["long_factor"])
    assert spec.rope.original_max_positions == 32
    assert config[key]["rope_type"] == name, "the configuration itself stays as it is"


def test_the_window_and_the_fused_projections() -> None:
    spec, _, theirs = both_specs("phi3 window")
    assert {layer.attention_spec.window for layer in spec.layers} == {theirs.sliding_window}
    assert spec.projections is Projections.FUSED


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["'linear'", "longrope"]),
        ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0] * 8}}, ["long_factor", "None"]),
        ("phi3", {"rope_scaling": longrope(7)}, ["7 factors", "needs 8"]),
        ("phi3", {"partial_rotary_factor": 0.35}, ["partial_rotary_factor 0.35", "even"]),
        ("phi3", {"attention_bias": True}, ["attention_bias: True"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
