from __future__ import annotations

from typing import Any

import pytest

from helpers.models.family_variants import both_specs, refusal, variants_of
from veneer.model.shape import Norm, NormPlacement, QkNorm


@pytest.mark.parametrize("variant", variants_of("olmo2"))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


def test_norms_stand_behind_and_go_over_all_heads() -> None:
    spec, _, theirs = both_specs("olmo2 biases")
    assert (spec.norm, spec.norm_placement, spec.qk_norm) == (Norm.RMS_ONCE, NormPlacement.POST, QkNorm.WIDTH)
    assert (spec.attention_bias, spec.num_kv_heads) == (theirs.attention_bias, theirs.num_key_value_heads)


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("olmo2", {"clip_qkv": 8.0}, ["clip_qkv: 8.0", "backend hf"]),
        ("olmo2", {"attention_bias": "no"}, ["attention_bias", "'no'", "true or false"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
