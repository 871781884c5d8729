"""Mixtures of experts: Mixtral, Qwen3-MoE and gpt-oss.

Two training settings in their configurations are ignored, the noise on a router's input (`router_jitter_noise`) and the
auxiliary loss (`output_router_logits`, `router_aux_loss_coef`): an adapter is trained on the language-modelling loss,
and routers are frozen unless they are named.
"""

from __future__ import annotations

from dataclasses import replace

from veneer.defaults import GPT_OSS_SCALING
from veneer.errors import ModelError
from veneer.model.families.fields import (
    FULL,
    SLIDING,
    Config,
    alike,
    layer_types,
    named_scaling,
    number,
    rope,
    sizes,
    switch,
    window,
    windowed,
)
from veneer.model.families.llama import llama
from veneer.model.mixture import Clamp, MixtureSpec, Routing, check_mixture
from veneer.model.shape import AttentionSpec, DecoderSpec, LayerSpec, Norm, QkNorm


def mixtral(config: Config) -> DecoderSpec:
    """Mixtral: Llama with a mixture in every layer (Jiang et al., 2024, arXiv:2401.04088)."""
    check_mixture(config, "num_local_experts", "intermediate_size")
    base = llama(config)
    return replace(
        base,
        layers=alike(config, rope(config, base.head_dim, theta=1_000_000.0), AttentionSpec(window=window(config))),
        attention_bias=False,
        output_bias=False,
        mixture=MixtureSpec(
            experts=config["num_local_experts"],
            top_k=config["num_experts_per_tok"],
            inner=config["intermediate_size"],
            routing=Routing.RENORMALISED,
        ),
    )


def qwen3_moe(config: Config) -> DecoderSpec:
    """Qwen3-MoE: QK norm for each head, and some layers with an ordinary feed-forward block.

    Those are `mlp_only_layers`, and the layers between every `decoder_sparse_step`.
    """
    # transformers 5 writes the number of experts by the name that Mixtral has for it.
    experts = next(
        (name for name in ("num_experts", "num_local_experts") if config.get(name) is not None), "num_experts"
    )
    check_mixture(config, experts, "moe_intermediate_size")
    base = llama(config)
    layers, step = len(base.layers), config.get("decoder_sparse_step", 1)
    named = config.get("mlp_only_layers") or []
    if type(step) is not int or step < 1 or not isinstance(named, list) or any(type(n) is not int for n in named):
        raise ModelError(
            f"decoder_sparse_step is {step!r} and mlp_only_layers {named!r}; they must be a whole number of at least 1 "
            "and a list of layer numbers"
        )
    size = window(config, 4096) if switch(config, "use_sliding_window", False) else None
    return replace(
        base,
        layers=alike(config, base.rope, AttentionSpec(window=size)),
        qk_norm=QkNorm.SHARED,
        mlp_bias=False,
        mixture=MixtureSpec(
            experts=config[experts],
            top_k=config["num_experts_per_tok"],
            inner=config["moe_intermediate_size"],
            routing=Routing.RENORMALISED if switch(config, "norm_topk_prob", False) else Routing.PLAIN,
            dense=frozenset(layer for layer in range(layers) if layer in named or (layer + 1) % step),
        ),
    )


def gpt_oss(config: Config) -> DecoderSpec:
    """gpt-oss: a window in every other layer, sinks of heads, and clamped gate and up (arXiv:2508.10925)."""
    check_mixture(config, "num_local_experts", "intermediate_size")
    shape, bias = sizes(config, head_dim=64), switch(config, "attention_bias", True)
    types = layer_types(config, (FULL if layer % 2 else SLIDING for layer in range(config["num_hidden_layers"])))
    scaling = named_scaling(config)
    rotary = rope(config, shape["head_dim"], theta=150_000.0, scaling=GPT_OSS_SCALING if scaling is None else scaling)
    return DecoderSpec(
        **shape,
        layers=tuple(
            LayerSpec(attention_spec=attention_spec, rope=rotary)
            for attention_spec in windowed(types, window(config, 128))
        ),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.RMS_ONCE,
        sinks=True,
        mixture=MixtureSpec(
            experts=config["num_local_experts"],
            top_k=config["num_experts_per_tok"],
            inner=config["intermediate_size"],
            routing=Routing.CHOSEN,
            router="router",
            router_bias=True,
            bias=True,
            clamp=Clamp(number(config, "swiglu_alpha", 1.702), number(config, "swiglu_limit", 7.0)),
            interleaved=True,
        ),
    )
