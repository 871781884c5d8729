"""What a decoder is made of, read from a Hugging Face configuration.

A family is one function from `config.json` to a `DecoderSpec`, registered in `FAMILIES`; the decoder itself knows no
family names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from veneer.errors import ModelError, listing
from veneer.model.mixture import MixtureSpec, Routing, check_mixture


class RopeKind(Enum):
    """How the rotary frequencies are scaled beyond the trained context."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    FACTORS = "veneer_factors"
    """A divisor for each inverse frequency, as a GGUF file carries them in `rope_freqs.weight`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """Rotary position embedding: base and scaling."""

    theta: float = 10_000.0
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSpec:
    """Shapes and switches of one dense decoder."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeSpec
    tied_head: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    mixture: MixtureSpec | None = None
    """The experts, where feed-forward blocks are mixtures."""
    max_positions: int
    """Longest context the model was trained for, in tokens."""


def _rope_from_hf(config: Mapping[str, Any]) -> RopeSpec:
    """Read rope settings from either layout: `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ModelError(f"rope_scaling in config.json is {scaling!r}; it must be a group of settings, or null")
    theta = _positive(scaling if "rope_theta" in scaling else config, "rope_theta", 10_000.0)
    name = scaling.get("rope_type", scaling.get("type", "default"))
    known = {kind.value: kind for kind in RopeKind}
    if name not in known:
        raise ModelError(
            f"rope scaling {name!r} is not supported for model_type {config.get('model_type')!r}; "
            f"supported: {', '.join(sorted(known))}"
        )
    kind = known[name]
    if kind is RopeKind.LINEAR:
        return RopeSpec(theta=theta, kind=kind, factor=_positive(scaling, "factor"))
    if kind is RopeKind.LLAMA3:
        trained = "original_max_position_embeddings"
        return RopeSpec(
            theta=theta,
            kind=kind,
            factor=_positive(scaling, "factor"),
            low_freq_factor=_positive(scaling, "low_freq_factor"),
            high_freq_factor=_positive(scaling, "high_freq_factor"),
            original_max_positions=int(
                _positive(scaling, trained) if trained in scaling else _positive(config, "max_position_embeddings")
            ),
        )
    if kind is RopeKind.FACTORS:
        return RopeSpec(theta=theta, kind=kind, factors=tuple(float(value) for value in scaling["factors"]))
    return RopeSpec(theta=theta)


def _positive(settings: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above 0, which has no default where leaving it out would give another model."""
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"{key} of the rotary positions in config.json is {value!r}; it must be a number above 0")
    return float(value)


def _check_sizes(config: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    problems = []
    for key in (*required, *optional):
        value = config.get(key)
        if value is None and key in required:
            problems.append(f"{key}: missing")
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            problems.append(f"{key}: {value!r}, must be a whole number of at least 1")
    eps = config.get("rms_norm_eps")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        problems.append(f"rms_norm_eps: {'missing' if eps is None else f'{eps!r}, must be a number of at least 0'}")
    if problems:
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} is not usable:\n{listing(problems)}\n"
            "Take the configuration from the model's original repository."
        )


def llama(config: Mapping[str, Any]) -> DecoderSpec:
    """Llama 2, 3, 3.1 to 3.3 and the models that share the architecture (SmolLM2, TinyLlama, …)."""
    _check_sizes(
        config,
        ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        ("num_key_value_heads", "head_dim", "max_position_embeddings"),
    )
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"hidden_act {activation!r} is not supported for the Llama family; supported: silu")
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if heads % kv_heads:
        raise ModelError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}; "
            "the query heads must divide evenly among the key heads"
        )
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    if head_dim < 2 or head_dim % 2:
        raise ModelError(f"head_dim is {head_dim}; rotary positions turn pairs of numbers, so it must be even")
    rope = _rope_from_hf(config)
    if rope.kind is RopeKind.FACTORS and len(rope.factors) != head_dim // 2:
        raise ModelError(f"rope_scaling has {len(rope.factors)} factors; head_dim {head_dim} needs {head_dim // 2}")
    return DecoderSpec(
        model_type=str(config.get("model_type", "llama")),
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=float(config["rms_norm_eps"]),
        rope=rope,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        max_positions=int(config.get("max_position_embeddings") or 2048),
    )


def mixtral(config: Mapping[str, Any]) -> DecoderSpec:
    """Mixtral: Llama with a mixture of experts in every layer (Jiang et al., 2024, arXiv:2401.04088)."""
    check_mixture(config, "num_local_experts", "intermediate_size")
    mixture = MixtureSpec(
        experts=config["num_local_experts"],
        top_k=config["num_experts_per_tok"],
        inner=config["intermediate_size"],
        routing=Routing.RENORMALISED,
    )
    return replace(llama(config), mixture=mixture)


FAMILIES: dict[str, Callable[[Mapping[str, Any]], DecoderSpec]] = {"llama": llama, "mixtral": mixtral}
"""Families by Hugging Face `model_type`."""


def spec_from_hf(config: Mapping[str, Any]) -> DecoderSpec:
    """The specification of the model that `config` (a `config.json`) describes.

    Raises:
        ModelError: the architecture is unknown, or the configuration is incomplete.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return family(config)
