from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.models.family_variants import FAMILIES, both_specs
from helpers.models.tiny_models import SHAPES, tiny
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import PLAIN_ATTENTION, AttentionSpec, LayerSpec, RopeKind, RopeSpec

NEAR, FAR = RopeSpec(theta=300.0), RopeSpec(theta=5000.0, share=0.75)


def test_rotary_positions_are_listed_once_in_order_of_appearance() -> None:
    base = spec_from_hf({**SHAPES, "model_type": "llama"})
    kinds = [None, FAR, NEAR, FAR, None]
    spec = replace(base, layers=tuple(LayerSpec(rope=rope) for rope in kinds))
    assert spec.ropes == (FAR, NEAR)
    assert spec.rope == FAR
    assert spec.num_layers == 5
    assert spec.layers[0].attention_spec == PLAIN_ATTENTION
    assert not spec.by_length
    long = replace(NEAR, kind=RopeKind.LONGROPE)
    assert replace(spec, layers=(*spec.layers, LayerSpec(rope=long))).by_length


@pytest.mark.parametrize(
    ("share", "head_dim", "turned"), [(1.0, 16, 16), (0.75, 16, 12), (0.25, 80, 20), (0.4, 64, 25)]
)
def test_a_share_of_a_head_is_rounded_down(share: float, head_dim: int, turned: int) -> None:
    assert RopeSpec(share=share).turned(head_dim) == turned


def test_the_scale_of_scores_defaults_to_the_root_of_the_head() -> None:
    assert AttentionSpec().of(64) == 0.125
    assert AttentionSpec(scale=0.0).of(64) == 0.0


def test_a_window_that_a_text_does_not_fill_hides_nothing() -> None:
    assert AttentionSpec(window=4).window_within(5) == 4
    assert AttentionSpec(window=4).window_within(4) is None
    assert AttentionSpec(window=4).window_within(3) is None
    assert AttentionSpec().window_within(10**9) is None


@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in FAMILIES.values()}))
def test_the_norms_of_a_layer_are_named_as_in_transformers(model_type: str) -> None:
    variant = next(name for name, (kind, _) in FAMILIES.items() if kind == model_type)
    spec, _, _ = both_specs(variant)
    names = [name for name, _ in tiny(model_type, changes=FAMILIES[variant][1]).named_modules()]
    layer = [name.removeprefix("model.layers.0.") for name in names if name.startswith("model.layers.0.")]
    assert {name for name in layer if name.endswith("layernorm") and "." not in name} == set(spec.norm_placement.norms)
