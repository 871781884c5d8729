"""What a decoder is made of, read from a Hugging Face configuration.

A family is one function from `config.json` to a `DecoderSpec`, registered in `FAMILIES`; the decoder itself knows no
family names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from veneer.errors import ModelError, listing


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
    max_positions: int
    """Longest context the model was trained for, in tokens."""


def _rope_from_hf(config: Mapping[str, Any]) -> RopeSpec:
    """Read rope settings from either layout: `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10_000.0)))
    name = scaling.get("rope_type", scaling.get("type", "default"))
    known = {kind.value: kind for kind in RopeKind}
    if name not in known:
        raise ModelError(
            f"rope scaling {name!r} is not supported for model_type {config.get('model_type')!r}; "
            f"supported: {', '.join(sorted(known))}"
        )
    if known[name] is RopeKind.DEFAULT:
        return RopeSpec(theta=theta)
    return RopeSpec(
        theta=theta,
        kind=known[name],
        factor=float(scaling.get("factor", 1.0)),
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        original_max_positions=int(
            scaling.get("original_max_position_embeddings", config.get("max_position_embeddings", 8192))
        ),
        factors=tuple(float(value) for value in scaling.get("factors", ())),
    )


def _require(config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if not isinstance(config.get(key), int | float)]
    if missing:
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} lacks a number for:\n{listing(missing)}\n"
            "Take the configuration from the model's original repository."
        )


def llama(config: Mapping[str, Any]) -> DecoderSpec:
    """Llama 2, 3, 3.1 to 3.3 and the models that share the architecture (SmolLM2, TinyLlama, …)."""
    _require(
        config,
        ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps"),
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
    return DecoderSpec(
        model_type=str(config.get("model_type", "llama")),
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        norm_eps=float(config["rms_norm_eps"]),
        rope=_rope_from_hf(config),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        max_positions=int(config.get("max_position_embeddings", 2048)),
    )


FAMILIES: dict[str, Callable[[Mapping[str, Any]], DecoderSpec]] = {"llama": llama}
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
