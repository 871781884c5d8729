"""Settings that families read alike; whole configurations are read in test_choose.py and in the families' files."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.models.tiny_models import SHAPES
from veneer.defaults import with_sizes
from veneer.errors import ModelError
from veneer.model.families.fields import (
    FULL,
    REQUIRED,
    SLIDING,
    activation,
    alike,
    layer_types,
    number,
    refuse,
    rope,
    sizes,
    switch,
    window,
    windowed,
)
from veneer.model.shape import PLAIN_ATTENTION, Activation, AttentionSpec, RopeKind


@given(st.none() | st.booleans() | st.text(max_size=3) | st.integers(-3, 3) | st.floats() | st.just(10**400))
def test_a_number_is_above_zero_and_finite_or_refused(value: Any) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
    if good:
        assert number({"key": value}, "key") == value
    else:
        with pytest.raises(ModelError, match=r"key of config\.json is"):
            number({"key": value}, "key")
    assert number({}, "key", 2.5) == 2.5


@given(st.none() | st.booleans() | st.text(max_size=3) | st.integers(-3, 3), st.booleans())
def test_a_switch_is_true_false_or_null(value: Any, default: bool) -> None:
    if value is None or isinstance(value, bool):
        assert switch({"key": value}, "key", default) is (default if value is None else value)
    else:
        with pytest.raises(ModelError, match="it must be true or false"):
            switch({"key": value}, "key", default)


@given(st.none() | st.booleans() | st.integers(-3, 300) | st.floats(1, 9))
def test_a_window_is_a_whole_number_of_keys_or_null(value: Any) -> None:
    if value is None or (type(value) is int and value > 0):
        assert window({"sliding_window": value}, 4) == value
    else:
        with pytest.raises(ModelError, match="sliding_window is"):
            window({"sliding_window": value}, 4)
    assert (window({}, 4), window({})) == (4, None)


def test_every_missing_size_is_named_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        sizes({"model_type": "llama", "head_dim": 0})
    assert [key for key in (*REQUIRED, "rms_norm_eps") if f"{key}: missing" not in str(caught.value)] == []
    assert "head_dim: 0, must be a whole number of at least 1" in str(caught.value)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_sizes_that_are_left_out_follow_from_the_others(heads: int) -> None:
    plain = {key: value for key, value in SHAPES.items() if key != "num_key_value_heads"} | {
        "num_attention_heads": heads
    }
    found = sizes(plain)
    assert (found["num_kv_heads"], found["head_dim"]) == (heads, 64 // heads)
    assert sizes(plain, head_dim=24)["head_dim"] == 24
    assert sizes(plain | {"head_dim": 10}, head_dim=24)["head_dim"] == 10
    assert sizes(with_sizes(plain | {"max_position_embeddings": None}))["max_positions"] == 2048


def test_unsupported_settings_are_refused_together_with_the_remedy() -> None:
    allowed: dict[str, tuple[Any, ...]] = {"a": (None, False), "b": (1,), "c": ("x",)}
    refuse({"a": False, "b": 1}, allowed)
    with pytest.raises(ModelError) as caught:
        refuse({"a": True, "b": 1, "c": "y"}, allowed)
    assert "a: True, supported: None or False" in str(caught.value)
    assert "c: 'y', supported: 'x'" in str(caught.value)
    assert "b:" not in str(caught.value)
    assert "backend hf" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("silu", Activation.SILU),
        ("swish", Activation.SILU),
        ("gelu_pytorch_tanh", Activation.GELU_TANH),
        (None, Activation.SILU),
    ],
)
def test_an_activation_is_read_by_each_of_its_names(name: str | None, expected: Activation) -> None:
    assert activation({"hidden_act": name}) is expected


def test_a_refused_activation_is_told_with_those_that_the_family_may_have() -> None:
    for name in ("gelu", "gelu_pytorch_tanh"):
        with pytest.raises(ModelError, match=f"'{name}' is not supported .*; supported: silu, swish\\."):
            activation({"hidden_act": name}, among=(Activation.SILU,))
    with pytest.raises(ModelError, match=r"supported: silu, swish, gelu_pytorch_tanh\."):
        activation({"hidden_act": "gelu"})


def test_layers_within_a_window_are_those_of_that_type() -> None:
    types = [SLIDING, FULL, SLIDING]
    config = {"num_hidden_layers": 3, "layer_types": types}
    assert layer_types(config, []) == layer_types({"num_hidden_layers": 3}, iter(types)) == types
    capped = AttentionSpec(scale=0.5, softcap=3.0)
    small = AttentionSpec(scale=0.5, window=7, softcap=3.0)
    assert windowed(types, 7, capped) == [small, capped, small]
    assert windowed([FULL] * 2, None) == [PLAIN_ATTENTION, PLAIN_ATTENTION]
    with pytest.raises(ModelError, match="no sliding_window is set"):
        windowed(types, None)
    with pytest.raises(ModelError, match="each of the 4 layers"):
        layer_types({"num_hidden_layers": 4, "layer_types": types}, [])


def test_layers_that_are_alike_are_as_many_as_the_configuration_says() -> None:
    rotary = rope({}, 16)
    layers = alike({"num_hidden_layers": 5}, rotary)
    assert [layer.rope for layer in layers] == [rotary] * 5


def yarn_amplitude(scaling: dict[str, Any]) -> float:
    """The attention factor as YaRN's paper and transformers write it."""
    own = scaling.get("attention_factor")
    if own is not None:
        return float(own)

    def amplitude(factor: float, m: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return amplitude(scaling["factor"], scaling["mscale"]) / amplitude(scaling["factor"], scaling["mscale_all_dim"])
    return amplitude(scaling["factor"])


@given(
    st.floats(0.5, 64), st.none() | st.floats(0.1, 2), st.none() | st.floats(0.1, 2), st.none() | st.floats(0.1, 2),
)  # fmt: skip
def test_the_amplitude_of_yarn(factor: float, own: float | None, above: float | None, below: float | None) -> None:
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 64}
    scaling |= {"attention_factor": own, "mscale": above, "mscale_all_dim": below}
    spec = rope({"max_position_embeddings": 256, "rope_scaling": scaling}, 16)
    assert spec.kind is RopeKind.YARN
    assert spec.amplitude == pytest.approx(yarn_amplitude(scaling), rel=1e-12)


def longrope_amplitude(factor: float, original: float) -> float:
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


@given(st.integers(16, 4096), st.integers(16, 4096))
def test_the_amplitude_of_longrope(longest: int, original: int) -> None:
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = {"max_position_embeddings": longest, "original_max_position_embeddings": original, "rope_scaling": scaling}
    assert rope(config, 16).amplitude == pytest.approx(longrope_amplitude(longest / original, original), rel=1e-12)


@pytest.mark.parametrize("value", [None, 3, "12", [1.0, "2"], [0.0], [-1.0], [math.nan], [math.inf], [10**400], [True]])
@pytest.mark.parametrize("key", ["short_factor", "long_factor", "factors"])
def test_factors_of_rotary_positions_are_numbers_above_zero_or_refused(key: str, value: Any) -> None:
    lists = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factors": [1.0] * 8}
    kind = "veneer_factors" if key == "factors" else "longrope"
    config = {"max_position_embeddings": 256, "rope_scaling": {"rope_type": kind} | lists | {key: value}}
    with pytest.raises(ModelError, match=f"{key} of the rotary positions"):
        rope(config, 16)


@pytest.mark.parametrize("original", [1, 0.5])
def test_an_amplitude_that_no_number_is_is_refused(original: float) -> None:
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = {"max_position_embeddings": 64, "original_max_position_embeddings": original, "rope_scaling": scaling}
    with pytest.raises(ModelError, match="needs more than one"):
        rope(config, 16)


@pytest.mark.parametrize("value", [10**400, math.nan, math.inf, -1.0, "x", None, True])
def test_an_epsilon_that_is_no_number_is_refused(value: Any) -> None:
    shape = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with pytest.raises(ModelError, match="rms_norm_eps: "):
        sizes(shape | {"num_attention_heads": 2, "rms_norm_eps": value})


@pytest.mark.parametrize("change", [{"beta_slow": 1e308}, {"beta_fast": 1e300}, {"rope_theta": 1.0}])
def test_settings_of_yarn_without_a_logarithm_are_refused(change: dict[str, float]) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    config = {"max_position_embeddings": 128, "rope_parameters": scaling}
    assert rope(config, 16).kind is RopeKind.YARN
    with pytest.raises(ModelError, match=r"yarn"):
        rope({**config, "rope_parameters": scaling | change}, 16)


@pytest.mark.parametrize("part", [1e308, 2.0, 0.01])
def test_a_share_of_a_head_that_cannot_be_turned_is_refused(part: float) -> None:
    with pytest.raises(ModelError, match=r"partial_rotary_factor .* rotates (inf|32|0\.16) numbers"):
        rope({"max_position_embeddings": 64, "partial_rotary_factor": part}, 16, share=1.0)


def test_a_scaling_beside_another_one_is_refused() -> None:
    """As where YaRN is added, by a model's page, to a file that transformers 5 has written."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    written = {"rope_type": "default", "rope_theta": 5000.0}
    with pytest.raises(ModelError, match=r"rope_parameters .* and rope_scaling .*, which differ; write all settings"):
        rope(SHAPES | {"rope_parameters": written, "rope_scaling": yarn}, 16)
    for old in (None, {}, {"type": "yarn", "factor": 4}):
        found = rope(SHAPES | {"rope_parameters": yarn | {"rope_theta": 5000.0}, "rope_scaling": old}, 16)
        assert (found.kind, found.theta) == (RopeKind.YARN, 5000.0)
