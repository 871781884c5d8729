"""Reading a `config.json` for the families' functions: sizes, rotary positions, windows, and refused settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from veneer.errors import ModelError, listing
from veneer.model.shape import PLAIN_ATTENTION, Activation, AttentionSpec, LayerSpec, RopeKind, RopeLayout, RopeSpec
from veneer.text.json_numbers import is_finite, is_whole

Config = Mapping[str, Any]

FULL, SLIDING = "full_attention", "sliding_attention"
"""Values of `layer_types`."""
SCALINGS = (RopeKind.DEFAULT, RopeKind.LINEAR, RopeKind.LLAMA3, RopeKind.YARN, RopeKind.LONGROPE, RopeKind.FACTORS)
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings")
OTHERWISE = "transformers may compute it: use backend hf (--set backend=hf)"
"""Remedy for a model whose family is supported, but whose settings are not."""


def number(settings: Config, key: str, default: float | None = None, *, of: str = "config.json") -> float:
    """Read a number above 0. Without a default the key is required."""
    value = settings.get(key, default)
    if not is_finite(value) or not value > 0:
        raise ModelError(f"{key} of {of} is {value!r}; it must be a number above 0")
    return float(value)


def period(config: Config, key: str, default: int) -> int:
    """Read the period of layers of a kind: one of this many.

    Raises:
        ModelError: it is not a whole number of at least 1.
    """
    value = config.get(key, default)
    if not is_whole(value, 1):
        raise ModelError(f"{key} of config.json is {value!r}; it must be a whole number of at least 1")
    return value


def switch(config: Config, key: str, default: bool) -> bool:
    """Read true or false; null means the default.

    Raises:
        ModelError: the value is something else.
    """
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelError(f"{key} of config.json is {value!r}; it must be true or false")
    return value


def sizes(config: Config, *, eps: str = "rms_norm_eps", head_dim: int | None = None) -> dict[str, Any]:
    """Read the fields of a `DecoderSpec` that every family has.

    Args:
        config: content of config.json, completed by `veneer.defaults.with_sizes`.
        eps: key of the norms' epsilon.
        head_dim: the family's default; None means that the width is divided among the heads.

    Raises:
        ModelError: sizes are missing or impossible; all such are named.
    """
    _check_sizes(config, eps)
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if heads % kv_heads:
        raise ModelError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}; "
            "the query heads must divide evenly among the key heads"
        )
    head_dim = int(config.get("head_dim") or head_dim or config["hidden_size"] // heads)
    if head_dim < 2 or head_dim % 2:
        raise ModelError(f"head_dim is {head_dim}; rotary positions turn pairs of numbers, so it must be even")
    return {
        "model_type": str(config.get("model_type", "llama")),
        "vocab_size": int(config["vocab_size"]),
        "hidden_size": int(config["hidden_size"]),
        "intermediate_size": int(config["intermediate_size"]),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "norm_eps": float(config[eps]),
        "max_positions": int(config["max_position_embeddings"]),
    }


def _check_sizes(config: Config, epsilon: str) -> None:
    problems = []
    for key in (*REQUIRED, *OPTIONAL):
        value = config.get(key)
        if value is None and key in REQUIRED:
            problems.append(f"{key}: missing")
        elif value is not None and not is_whole(value, 1):
            problems.append(f"{key}: {value!r}, must be a whole number of at least 1")
    eps = config.get(epsilon)
    if not is_finite(eps) or eps < 0:
        problems.append(f"{epsilon}: {'missing' if eps is None else f'{eps!r}, must be a number of at least 0'}")
    if problems:
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} is not usable:\n{listing(problems)}\n"
            "Take the configuration from the model's original repository."
        )


_ACTIVATIONS = {"silu": Activation.SILU, "swish": Activation.SILU, "gelu_pytorch_tanh": Activation.GELU_TANH}


def activation(
    config: Config, key: str = "hidden_act", default: str = "silu", *, among: Collection[Activation] = tuple(Activation)
) -> Activation:
    """Read the activation of the gate.

    Args:
        config: content of config.json.
        key: the key of the activation.
        default: the activation if the key is missing.
        among: the activations that the family may have.

    Raises:
        ModelError: the activation is not supported.
    """
    names = {name: one for name, one in _ACTIVATIONS.items() if one in among}
    name = config.get(key) or default
    if str(name) not in names:
        raise ModelError(
            f"{key} {name!r} is not supported for model_type {config.get('model_type')!r}; "
            f"supported: {', '.join(names)}. {OTHERWISE}"
        )
    return names[name]


def refuse(config: Config, values: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings that change what a model computes and are not supported.

    Args:
        config: content of config.json.
        values: the supported values of each key. A key may be missing.

    Raises:
        ModelError: settings are not supported; the message names all of them.
    """
    problems = [
        f"{key}: {config[key]!r}, supported: {' or '.join(map(repr, allowed))}"
        for key, allowed in values.items()
        if key in config and config[key] not in allowed
    ]
    if problems:
        raise ModelError(
            f"config.json of model_type {config.get('model_type')!r} has settings that veneer does not compute:\n"
            f"{listing(problems)}\n{OTHERWISE}"
        )


def rope(
    config: Config,
    head_dim: int,
    *,
    theta: float = 10_000.0,
    share: float | None = None,
    layout: RopeLayout = RopeLayout.HALVES,
    kinds: Sequence[RopeKind] = SCALINGS,
    scaling: object = None,
) -> RopeSpec:
    """Read rotary positions from `rope_theta` and `rope_scaling`, or from transformers 5's `rope_parameters`.

    Args:
        config: content of config.json.
        head_dim: elements of a head.
        theta: the family's default base.
        share: the family's default share of a head that is rotated; None if the family rotates whole heads.
        layout: which elements form pairs.
        kinds: scalings that the family supports.
        scaling: the group of settings, if the family has several; None reads the only one.

    Raises:
        ModelError: a setting is missing, impossible or not supported.
    """
    if scaling is None:
        scaling = named_scaling(config) or {}
    if not isinstance(scaling, Mapping):
        raise ModelError(f"rope_scaling in config.json is {scaling!r}; it must be a group of settings, or null")
    if {FULL, SLIDING} & scaling.keys():
        raise ModelError(
            f"rope_parameters in config.json has groups for kinds of layers, {', '.join(map(repr, scaling))}, and the "
            f"layers of model_type {config.get('model_type')!r} are all rotated alike; give one group of settings"
        )
    base = _number(scaling if "rope_theta" in scaling else config, "rope_theta", theta)
    part = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is not None and share is None and part != 1:
        raise ModelError(
            f"config.json has partial_rotary_factor {part!r}, and model_type {config.get('model_type')!r} turns "
            f"whole heads. {OTHERWISE}"
        )
    part = share if part is None else part
    common: dict[str, Any] = {"theta": base, "layout": layout}
    if part is not None:
        common["share"] = number({"partial_rotary_factor": part}, "partial_rotary_factor")
        if part > 1 or int(head_dim * part) % 2 or int(head_dim * part) < 2:
            raise ModelError(
                f"partial_rotary_factor {part!r} of head_dim {head_dim} rotates {head_dim * part:g} numbers; their "
                "number must be even, and at most head_dim"
            )
    spec = RopeSpec(**common, **_scaled(config, scaling, kinds))
    if spec.kind is RopeKind.YARN and spec.theta == 1.0:
        raise ModelError(
            "rope_theta 1 in config.json rotates all pairs alike, so that yarn cannot tell fast pairs from slow ones"
        )
    pairs = spec.turned(head_dim) // 2
    lists = {"factors": spec.factors, "long_factor": spec.long_factors}
    wanted = {"factors": spec.kind in (RopeKind.FACTORS, RopeKind.LONGROPE), "long_factor": bool(spec.long_factors)}
    for name, values in lists.items():
        if wanted[name] and len(values) != pairs:
            raise ModelError(f"rope_scaling has {len(values)} {name}; head_dim {head_dim} needs {pairs}")
    return spec


def named_scaling(config: Config) -> Any:
    """Read the group of settings of rotary positions, `rope_parameters` or `rope_scaling`; None if both are empty.

    Raises:
        ModelError: both are given and differ, for example because a scaling was added to a file that has
            `rope_parameters`.
    """
    new, old = config.get("rope_parameters") or None, config.get("rope_scaling") or None
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        renamed = {"rope_type" if key == "type" else key: value for key, value in old.items()}
        if any(key not in new or new[key] != value for key, value in renamed.items()):
            raise ModelError(
                f"config.json has rope_parameters {dict(new)!r} and rope_scaling {dict(old)!r}, which differ; write "
                "all settings into rope_parameters (rope_theta too) and remove rope_scaling"
            )
    return new or old


def unscaled(config: Config) -> list[str]:
    """Name the settings of a scaling without a type, which nothing reads.

    transformers warns of them, and computes rotary positions without a scaling.
    """
    read = {"rope_type", "type", "rope_theta", "partial_rotary_factor", FULL, SLIDING}
    found = []
    for key in ("rope_parameters", "rope_scaling"):
        settings = config.get(key)
        if not isinstance(settings, Mapping):
            continue
        groups = {f"{key}.{name}": settings.get(name) for name in (FULL, SLIDING)} | {key: settings}
        for path, group in groups.items():
            if isinstance(group, Mapping) and group.get("rope_type", group.get("type", "default")) == "default":
                found += [f"{path}.{name}" for name, value in group.items() if value is not None and name not in read]
    return found


MOST_TURNS = 1e9
"""The largest number of turns over a context that yarn accepts; models have 1 and 32."""


def _number(settings: Config, key: str, default: float | None = None) -> float:
    return number(settings, key, default, of="the rotary positions in config.json")


def _kind(config: Config, scaling: Config, kinds: Sequence[RopeKind]) -> RopeKind:
    name = scaling.get("rope_type", scaling.get("type", "default"))
    known = {kind.value: kind for kind in kinds}
    if name == "dynamic":
        raise ModelError(
            "rope scaling 'dynamic' is not supported: its frequencies change with every further token of a text, so "
            f"that no key could be cached. Supported: {', '.join(sorted(known))}; within max_position_embeddings it "
            f"has no effect, so that rope_scaling can be set to null. {OTHERWISE}"
        )
    if not isinstance(name, str) or name not in known:
        raise ModelError(
            f"rope scaling {name!r} is not supported for model_type {config.get('model_type')!r}; "
            f"supported: {', '.join(sorted(known))}. {OTHERWISE}"
        )
    return known[name]


def _scaled(config: Config, scaling: Config, kinds: Sequence[RopeKind]) -> dict[str, Any]:
    """The fields of a `RopeSpec` that its kind of scaling needs."""
    kind = _kind(config, scaling, kinds)
    if kind is RopeKind.DEFAULT:
        return {}
    if kind is RopeKind.LINEAR:
        return {"kind": kind, "factor": _number(scaling, "factor")}
    if kind is RopeKind.FACTORS:
        return {"kind": kind, "factors": _numbers(scaling, "factors")}
    fields: dict[str, Any] = {"kind": kind}
    if kind is RopeKind.LLAMA3:
        fields |= {key: _number(scaling, key) for key in ("factor", "low_freq_factor", "high_freq_factor")}
    trained = "original_max_position_embeddings"
    source = next((group for group in (config, scaling) if group.get(trained) is not None), None)
    original = _number(source, trained) if source is not None else _number(config, "max_position_embeddings")
    fields["original_max_positions"] = int(original)
    if kind is RopeKind.LLAMA3:
        return fields
    if scaling.get("factor") is None:
        fields["factor"] = _number(config, "max_position_embeddings") / original
    else:
        fields["factor"] = _number(scaling, "factor")
    if kind is RopeKind.LONGROPE:
        return fields | _longrope(scaling, fields["factor"], original)
    return fields | _yarn(scaling, fields["factor"])


def _longrope(scaling: Config, factor: float, original: float) -> dict[str, Any]:
    """LongRoPE (Ding et al., 2024, arXiv:2402.13753): its amplitude is √(1 + ln factor / ln original)."""
    lists = {"factors": _numbers(scaling, "short_factor"), "long_factors": _numbers(scaling, "long_factor")}
    if factor > 1 and original <= 1:
        raise ModelError(
            f"the original context in config.json has {original:g} positions; the amplitude of longrope's rotary "
            "positions needs more than one"
        )
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    if scaling.get("attention_factor") is not None:
        amplitude = _number(scaling, "attention_factor")
    return lists | {"amplitude": amplitude}


def _numbers(scaling: Config, key: str) -> tuple[float, ...]:
    values = scaling.get(key)
    if not isinstance(values, list | tuple) or not all(is_finite(value) and value > 0 for value in values):
        raise ModelError(
            f"{key} of the rotary positions in config.json is {values!r}; it must be a list of numbers above 0"
        )
    return tuple(float(value) for value in values)


def _yarn(scaling: Config, factor: float) -> dict[str, Any]:
    """YaRN (Peng et al., 2023, arXiv:2309.00071): its amplitude is 0.1 m ln factor + 1."""

    def size(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    amplitude = size(1.0)
    if above and below:
        amplitude = size(_number(scaling, "mscale")) / size(_number(scaling, "mscale_all_dim"))
    if scaling.get("attention_factor") is not None:
        amplitude = _number(scaling, "attention_factor")
    betas = {key: _number(scaling, key) for key in ("beta_fast", "beta_slow") if scaling.get(key)}
    if any(turns > MOST_TURNS for turns in betas.values()):
        raise ModelError(
            f"beta_fast and beta_slow of yarn in config.json are {betas!r}; they are at most {MOST_TURNS:g}"
        )
    # As for transformers, null is false here.
    return {"amplitude": amplitude, "truncate": switch(scaling, "truncate", "truncate" not in scaling), **betas}


def window(config: Config, default: int | None = None) -> int | None:
    """Read `sliding_window`, the number of keys that a query sees; null means all.

    Raises:
        ModelError: the value is not such a number.
    """
    value = config.get("sliding_window", default)
    if value is not None and not is_whole(value, 1):
        raise ModelError(f"sliding_window is {value!r}; it must be a whole number of at least 1, or null")
    return value


def layer_types(config: Config, default: Iterable[str]) -> list[str]:
    """Read `layer_types`, one for each layer: full attention, or attention within the window.

    Raises:
        ModelError: the number of types is not that of the layers, or a type is unknown.
    """
    layers = int(config["num_hidden_layers"])
    types = config.get("layer_types")
    types = list(default) if types is None else types
    if not isinstance(types, list | tuple) or len(types) != layers:
        raise ModelError(f"layer_types is {types!r}; it must be a list with a word for each of the {layers} layers")
    unknown = sorted({str(name) for name in types} - {FULL, SLIDING})
    if unknown:
        raise ModelError(f"layer_types has unknown kinds:\n{listing(unknown)}\nKnown are {FULL} and {SLIDING}.")
    return list(types)


def windowed(
    types: Sequence[str], size: int | None, attention_spec: AttentionSpec = PLAIN_ATTENTION
) -> list[AttentionSpec]:
    """The attention of each layer, within a window of `size` if its type says so.

    Raises:
        ModelError: layers have a window, but its size is not given.
    """
    if SLIDING in types and size is None:
        raise ModelError(f"layer_types has {SLIDING!r}, but no sliding_window is set; give its size")
    small = AttentionSpec(attention_spec.scale, size, attention_spec.softcap)
    return [small if name == SLIDING else attention_spec for name in types]


def alike(
    config: Config, rotary: RopeSpec | None, attention_spec: AttentionSpec = PLAIN_ATTENTION
) -> tuple[LayerSpec, ...]:
    """Specifications of layers that are all alike."""
    return (LayerSpec(attention_spec=attention_spec, rope=rotary),) * int(config["num_hidden_layers"])
