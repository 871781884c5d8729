"""Llama and the families that differ from it in few words: Mistral, Qwen2, Qwen3, SmolLM3, Granite."""

from __future__ import annotations

from veneer.errors import ModelError
from veneer.model.families.fields import (
    FULL,
    SLIDING,
    Config,
    activation,
    alike,
    layer_types,
    number,
    period,
    refuse,
    rope,
    sizes,
    switch,
    window,
    windowed,
)
from veneer.model.shape import Activation, AttentionSpec, DecoderSpec, LayerSpec, QkNorm
from veneer.products import Scores
from veneer.text.json_numbers import is_whole


def llama(config: Config) -> DecoderSpec:
    """Llama 2, 3, 3.1 to 3.3 and the models that share the architecture (SmolLM2, TinyLlama, …)."""
    shape, bias = sizes(config), switch(config, "attention_bias", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"])),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=switch(config, "mlp_bias", False),
        activation=_silu(config),
    )


def _silu(config: Config) -> Activation:
    """The activation of these families, which is SiLU in all published models."""
    return activation(config, among=(Activation.SILU,))


def mistral(config: Config) -> DecoderSpec:
    """Mistral: all layers have a window, or none has (`sliding_window: null`)."""
    refuse(config, {"attention_bias": (None, False), "mlp_bias": (None, False)})
    shape = sizes(config)
    size = window(config, 4096)
    expected = FULL if size is None else SLIDING
    if config.get("layer_types") is not None and set(layer_types(config, ())) != {expected}:
        raise ModelError(
            f"layer_types of model_type 'mistral' is {config['layer_types']!r}; with sliding_window {size!r} all of "
            f"its layers are {expected!r}"
        )
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"]), AttentionSpec(window=size)),
        tied_head=switch(config, "tie_word_embeddings", False),
        activation=_silu(config),
    )


def qwen2(config: Config) -> DecoderSpec:
    """Qwen2 and 2.5: biases on q, k and v; layers from `max_window_layers` on may have a window."""
    refuse(config, {"attention_bias": (None, True), "mlp_bias": (None, False), "use_mrope": (None, False)})
    shape = sizes(config)
    return DecoderSpec(
        **shape,
        layers=_from_some_layer_on(config, shape["head_dim"]),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=True,
        activation=_silu(config),
    )


def qwen3(config: Config) -> DecoderSpec:
    """Qwen3: QK norm for each head."""
    shape, bias = sizes(config, head_dim=128), switch(config, "attention_bias", False)
    return DecoderSpec(
        **shape,
        layers=_from_some_layer_on(config, shape["head_dim"]),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        qk_norm=QkNorm.SHARED,
        activation=_silu(config),
    )


def _from_some_layer_on(config: Config, head_dim: int) -> tuple[LayerSpec, ...]:
    """Layers of Qwen, by `use_sliding_window`, `max_window_layers` and `layer_types`."""
    size = window(config, 4096) if switch(config, "use_sliding_window", False) else None
    first = config.get("max_window_layers", 28)
    if not is_whole(first):
        raise ModelError(f"max_window_layers is {first!r}; it must be a whole number")
    layers = range(int(config["num_hidden_layers"]))
    types = layer_types(config, (SLIDING if size is not None and layer >= first else FULL for layer in layers))
    _refuse_window_that_is_off(config, types)
    rotary = rope(config, head_dim)
    return tuple(LayerSpec(attention_spec=attention_spec, rope=rotary) for attention_spec in windowed(types, size))


def _refuse_window_that_is_off(config: Config, types: list[str]) -> None:
    """Refuse layers with a window if `use_sliding_window` is false; transformers fails on such a file."""
    if SLIDING in types and not switch(config, "use_sliding_window", False):
        raise ModelError(
            f"layer_types has {SLIDING!r}, but use_sliding_window is {config.get('use_sliding_window', False)!r}; set "
            f"use_sliding_window to true if these layers have the window, or make them {FULL!r}"
        )


def smollm3(config: Config) -> DecoderSpec:
    """SmolLM3: every fourth layer, or those of `no_rope_layers`, has no rotary positions (arXiv:2501.18795)."""
    shape, bias = sizes(config), switch(config, "attention_bias", False)
    layers = int(config["num_hidden_layers"])
    turned = config.get("no_rope_layers")
    if turned is None:
        interval = period(config, "no_rope_layer_interval", 4)
        turned = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(turned, list | tuple) or len(turned) < layers or any(value not in (0, 1) for value in turned):
        raise ModelError(
            f"no_rope_layers is {turned!r}; it must have a 1 (rotary positions) or 0 (none) for each of {layers} layers"
        )
    size = window(config) if switch(config, "use_sliding_window", False) else None
    types = layer_types(config, (SLIDING if size is not None and not value else FULL for value in turned[:layers]))
    _refuse_window_that_is_off(config, types)
    rotary = rope(config, shape["head_dim"], theta=2_000_000.0)
    return DecoderSpec(
        **shape,
        layers=tuple(
            LayerSpec(attention_spec=attention_spec, rope=rotary if value else None)
            for attention_spec, value in zip(windowed(types, size), turned, strict=False)
        ),
        tied_head=switch(config, "tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=switch(config, "mlp_bias", False),
        activation=_silu(config),
    )


def granite(config: Config) -> DecoderSpec:
    """Granite: four multipliers, for the embedding, the residual stream, attention scores and logits."""
    refuse(config, {"position_embedding_type": ("rope", None)})
    shape, bias = sizes(config), switch(config, "attention_bias", False)
    attention_spec = AttentionSpec(scale=number(config, "attention_multiplier", 1.0))
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"]), attention_spec),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=switch(config, "mlp_bias", False),
        embedding_scale=number(config, "embedding_multiplier", 1.0),
        residual_scale=number(config, "residual_multiplier", 1.0),
        scores=Scores(scale=1.0 / number(config, "logits_scaling", 1.0)),
        activation=_silu(config),
    )
