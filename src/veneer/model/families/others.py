"""Phi-3 and Phi-4, OLMo-2, Cohere (Command-R) and StableLM."""

from __future__ import annotations

from typing import Any

from veneer.model.families.reading import (
    Config,
    activation,
    alike,
    number,
    refuse,
    rope,
    sizes,
    switch,
    window,
)
from veneer.model.shape import (
    Block,
    DecoderSpec,
    HeadNorm,
    Mixing,
    Norm,
    Projections,
    RopeKind,
    RopeLayout,
)
from veneer.products import Scores


def phi3(config: Config) -> DecoderSpec:
    """Phi-3, 3.5, Phi-4 and Phi-4-mini: fused projections, LongRoPE, part of each head turned."""
    shape = sizes(config)
    settings = _longrope_named(config)
    rotary = rope(settings, shape["head_dim"], share=1.0, kinds=(RopeKind.DEFAULT, RopeKind.LONGROPE, RopeKind.FACTORS))
    return DecoderSpec(
        **shape,
        layers=alike(config, rotary, Mixing(window=window(config))),
        tied_head=switch(config, "tie_word_embeddings", False),
        projections=Projections.FUSED,
        activation=activation(config),
    )


def _longrope_named(config: Config) -> dict[str, Any]:
    """The configuration with LongRoPE under its name: early files of Phi-3 call it `su` or `yarn`."""
    settings = {"original_max_position_embeddings": 4096, "max_position_embeddings": 4096, **config}
    for key in ("rope_parameters", "rope_scaling"):
        group = settings.get(key)
        if isinstance(group, dict) and group.get("rope_type", group.get("type")) in ("su", "yarn"):
            settings[key] = group | {"rope_type": "longrope"}
    return settings


def olmo2(config: Config) -> DecoderSpec:
    """OLMo-2: norms behind attention and feed-forward, and over all heads of queries and of keys at once."""
    refuse(config, {"clip_qkv": (None,)})
    shape, bias = sizes(config), switch(config, "attention_bias", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"])),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.RMS_ONCE,
        block=Block.POST,
        head_norm=HeadNorm.WIDTH,
        activation=activation(config),
    )


def cohere(config: Config) -> DecoderSpec:
    """Command-R: attention and feed-forward side by side, LayerNorm without bias, neighbours turned together."""
    shape, bias = sizes(config, eps="layer_norm_eps"), switch(config, "attention_bias", False)
    own = switch(config, "use_qk_norm", False)
    rotary = rope(config, shape["head_dim"], theta=500_000.0, layout=RopeLayout.NEIGHBOURS)
    return DecoderSpec(
        **shape,
        layers=alike(config, rotary),
        tied_head=switch(config, "tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.LAYER,
        block=Block.PARALLEL,
        head_norm=HeadNorm.OWN if own else HeadNorm.NONE,
        activation=activation(config),
        scores=Scores(scale=number(config, "logit_scale", 0.0625)),
    )


def stablelm(config: Config) -> DecoderSpec:
    """StableLM: LayerNorm with bias, a quarter of each head turned."""
    shape = sizes(config, eps="layer_norm_eps")
    own = switch(config, "qk_layernorm", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"], share=0.25)),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=switch(config, "use_qkv_bias", False),
        norm=Norm.LAYER_BIAS,
        block=Block.PARALLEL if switch(config, "use_parallel_residual", False) else Block.PRE,
        head_norm=HeadNorm.OWN_MODULES if own else HeadNorm.NONE,
        head_norm_names=("q_layernorm", "k_layernorm"),
        activation=activation(config),
    )
