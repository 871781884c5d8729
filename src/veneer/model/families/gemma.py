"""Gemma 2 and the text model of Gemma 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.errors import ModelError
from veneer.model.families.fields import (
    FULL,
    SLIDING,
    Config,
    activation,
    layer_types,
    named_scaling,
    number,
    period,
    refuse,
    rope,
    sizes,
    switch,
    window,
    windowed,
)
from veneer.model.shape import AttentionSpec, DecoderSpec, LayerSpec, Norm, NormPlacement, QkNorm, RopeSpec
from veneer.products import Scores


def gemma2(config: Config) -> DecoderSpec:
    """Gemma 2: norms before and after each block, soft caps, and a window in every other layer."""
    shape = sizes(config, head_dim=256)
    layers = range(int(config["num_hidden_layers"]))
    types = layer_types(config, (FULL if layer % 2 else SLIDING for layer in layers))
    rotary = rope(config, shape["head_dim"])
    softcaps = (_softcap(config, "attn_logit_softcapping", 50.0), _softcap(config, "final_logit_softcapping", 30.0))
    return _gemma(config, shape, types, {FULL: rotary, SLIDING: rotary}, softcaps)


GEMMA3_DEFAULTS = {"vocab_size": 262_208, "num_attention_heads": 8, "rms_norm_eps": 1e-6}


def gemma3(config: Config) -> DecoderSpec:
    """Gemma 3's text model: QK norm, and five of six layers with a window and a rotary base of their own."""
    # Published text_configs leave out values that are transformers' defaults.
    config = {**GEMMA3_DEFAULTS, **config}
    shape = sizes(config, head_dim=256)
    layers, full_every = range(int(config["num_hidden_layers"])), period(config, "sliding_window_pattern", 6)
    types = layer_types(config, (SLIDING if (layer + 1) % full_every else FULL for layer in layers))
    groups = config.get("rope_parameters") or {}
    if not isinstance(groups, Mapping) or (groups and not {FULL, SLIDING} & groups.keys()):
        raise ModelError(
            f"rope_parameters of model_type {config.get('model_type')!r} is {groups!r}; it must have a group "
            f"{FULL!r} and a group {SLIDING!r}"
        )
    wide = named_scaling({"rope_parameters": groups.get(FULL), "rope_scaling": config.get("rope_scaling")}) or {}
    narrow = groups.get(SLIDING) or {}
    near = {"model_type": config.get("model_type"), "rope_theta": config.get("rope_local_base_freq", 10_000.0)}
    near["max_position_embeddings"] = config.get("max_position_embeddings")
    ropes = {
        FULL: rope(config, shape["head_dim"], theta=1_000_000.0, scaling=wide),
        SLIDING: rope(near, shape["head_dim"], scaling=narrow),
    }
    softcaps = (None, _softcap(config, "final_logit_softcapping", None))
    # transformers 5.24 reads attn_logit_softcapping of Gemma 3 and does not use it: no published model sets it.
    refuse(config, {"attn_logit_softcapping": (None,)})
    return _gemma(config, shape, types, ropes, softcaps, QkNorm.SHARED)


def _softcap(config: Config, key: str, default: float | None) -> float | None:
    return None if config.get(key, default) is None else number(config, key, default)


def _gemma(
    config: Config,
    shape: dict[str, Any],
    types: list[str],
    ropes: dict[str, RopeSpec],
    softcaps: tuple[float | None, float | None],
    qk_norm: QkNorm = QkNorm.NONE,
) -> DecoderSpec:
    refuse(config, {"use_bidirectional_attention": (None, False)})
    bias = switch(config, "attention_bias", False)
    attention_spec = AttentionSpec(scale=number(config, "query_pre_attn_scalar", 256) ** -0.5, softcap=softcaps[0])
    return DecoderSpec(
        **shape,
        layers=tuple(
            LayerSpec(attention_spec=one, rope=ropes[name])
            for one, name in zip(windowed(types, window(config, 4096), attention_spec), types, strict=True)
        ),
        tied_head=switch(config, "tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.RMS_AROUND_ONE,
        norm_placement=NormPlacement.SANDWICH,
        qk_norm=qk_norm,
        activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        embedding_scale=shape["hidden_size"] ** 0.5,
        embedding_scale_rounded=True,
        scores=Scores(softcap=softcaps[1]),
    )
