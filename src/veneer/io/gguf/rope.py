"""Rotary positions both ways: from config.json's settings to a GGUF file's keys and tensors of divisors, and back.

Llama 3's scaling has no keys of its own: the file has a tensor with its effect, a divisor for each inverse frequency.
LongRoPE's two lists are tensors too. Linear scaling and YaRN are keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from veneer.errors import ModelError
from veneer.io.gguf.header import GgufHeader, TensorInfo
from veneer.io.gguf.metadata import LARGEST, Metadata, Value, shortest
from veneer.text.json_numbers import is_finite

Factors = np.ndarray[Any, np.dtype[np.float32]]
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = (FREQUENCIES, LONG, SHORT)
ORIGINAL = "original_max_position_embeddings"
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Rope:
    """The settings of rotary positions, whichever layout config.json has them in."""

    theta: float
    kind: str = "default"
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """The settings that belong to this kind of scaling."""
    partial: float = 1.0
    """The share of a head that is turned."""
    local_theta: float | None = None
    """The base in layers with a sliding window, if they have their own."""


def rope_of(config: Mapping[str, Any]) -> Rope:
    """Read config.json's settings: `rope_theta` and `rope_scaling`, or transformers 5's `rope_parameters`.

    Raises:
        ModelError: the layers with a sliding window have a scaling of their own, or a setting is of no use.
    """
    settings = _group(config.get("rope_parameters") or config.get("rope_scaling"))
    local: Mapping[str, Any] = {}
    if _GLOBAL in settings or _LOCAL in settings:
        local, settings = _group(settings.get(_LOCAL)), _group(settings.get(_GLOBAL))
        if local.get("rope_type", "default") != "default":
            raise ModelError(f"rope of the layers with a sliding window is {local['rope_type']!r}, not 'default'")
    theta = settings.get("rope_theta", config.get("rope_theta", 10_000.0))
    local_theta = local.get("rope_theta", config.get("rope_local_base_freq"))
    kind = settings.get("rope_type", settings.get("type", "default"))
    scaling = dict(settings)
    if config.get(ORIGINAL):
        # transformers uses this one if the scaling has another.
        scaling[ORIGINAL] = config[ORIGINAL]
    return Rope(
        theta=_base(theta),
        kind="longrope" if kind == "su" else str(kind),
        scaling=scaling,
        partial=float(settings.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0),
        local_theta=None if local_theta is None else _base(local_theta),
    )


def _group(settings: Any) -> Mapping[str, Any]:
    if not isinstance(settings or {}, Mapping):
        raise ModelError(f"the settings of rotary positions are {settings!r}; a group of settings is needed, or null")
    return settings or {}


def _base(theta: Any) -> float:
    if not is_finite(theta) or not 0 < theta <= LARGEST:
        raise ModelError(f"the base of rotary positions is {theta!r}; GGUF needs a number above 0, up to {LARGEST:.3g}")
    return float(theta)


# ------------------------------------------------------------------------------------------------------------- writing


def write_rope(rope: Rope, turned: int, positions: int) -> tuple[dict[str, Value], dict[str, Factors]]:
    """The keys (after the name of the architecture) and the tensors.

    Args:
        rope: the settings.
        turned: how many numbers of a head are turned.
        positions: the model's `max_position_embeddings`.

    Raises:
        ModelError: GGUF has no form for the scaling.
    """
    values: dict[str, Value] = {"rope.freq_base": rope.theta, "rope.dimension_count": turned}
    if rope.local_theta is not None:
        values["rope.freq_base_swa"] = rope.local_theta
    scaling = rope.scaling
    if rope.kind == "default":
        return values, {}
    if rope.kind == "linear":
        return values | {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}, {}
    if rope.kind == "llama3":
        low, high = (float(scaling[key]) for key in ("low_freq_factor", "high_freq_factor"))
        factors = llama3_factors(
            turned, rope.theta, float(scaling["factor"]), int(scaling.get(ORIGINAL, positions)), low=low, high=high
        )
        return values, {FREQUENCIES: factors.astype(np.float32)}
    if rope.kind == "veneer_factors":
        return values, {FREQUENCIES: np.asarray(scaling["factors"], np.float32)}
    if rope.kind == "yarn":
        return values | _write_yarn(scaling, positions), {}
    if rope.kind == "longrope":
        return _write_longrope(values, scaling, turned, positions)
    raise ModelError(f"rope scaling {rope.kind!r} has no form in GGUF; linear, llama3, yarn and longrope have")


def _write_yarn(scaling: Mapping[str, Any], positions: int) -> dict[str, Value]:
    factor = float(scaling["factor"])
    if scaling.get("mscale") or scaling.get("mscale_all_dim"):
        raise ModelError("yarn's mscale and mscale_all_dim are not written to GGUF")
    if scaling.get("truncate") is False:
        raise ModelError("yarn without truncation (truncate: false) has no form in GGUF: llama.cpp rounds the range")
    values: dict[str, Value] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(scaling.get(ORIGINAL, positions)),
    }
    for name, taken in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        if float(scaling.get(name) or taken) != taken:
            raise ModelError(
                f"yarn's {name}: {scaling[name]!r}, but llama.cpp always uses {taken:g}, regardless of the file"
            )
        if scaling.get(name):
            values[f"rope.scaling.yarn_{name}"] = taken
    if scaling.get("attention_factor") is not None:
        # llama.cpp multiplies this factor by its own attention factor.
        values["rope.scaling.attn_factor"] = float(scaling["attention_factor"]) / _yarn_attention(factor)
    return values


def _yarn_attention(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _write_longrope(
    values: dict[str, Value], scaling: Mapping[str, Any], turned: int, positions: int
) -> tuple[dict[str, Value], dict[str, Factors]]:
    original = int(scaling.get(ORIGINAL, positions))
    lists = {name: np.asarray(scaling[name], np.float32) for name in ("long_factor", "short_factor")}
    for name, factors in lists.items():
        if factors.shape != (turned // 2,):
            raise ModelError(f"{name} of the rope scaling has {factors.size} numbers; {turned // 2} are needed")
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = _long_attention(float(scaling.get("factor") or positions / original), original)
    values |= {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": float(attention),
    }
    return values, {LONG: lists["long_factor"], SHORT: lists["short_factor"]}


def _long_attention(factor: float, original: int) -> float:
    """√(1 + ln f / ln L), the attention factor of LongRoPE in Phi-3 (Su et al., 2024)."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


# ------------------------------------------------------------------------------------------------------------- reading


def read_rope(meta: Metadata, header: GgufHeader, head_dim: int, positions: int) -> dict[str, Any]:
    """The settings for config.json.

    They are `rope_theta` and `rope_scaling`, and `rope_local_base_freq`, `partial_rotary_factor` and the original
    context if those are not the default.

    Raises:
        ModelError: a key or tensor is damaged, or the scaling is of an unknown type.
    """
    theta = meta.real("rope.freq_base", 10_000.0)
    turned = meta.integer("rope.dimension_count", head_dim, most=head_dim)
    found: dict[str, Any] = {"rope_theta": theta, "rope_scaling": _scaling(meta, header, turned, theta, positions)}
    if turned != head_dim:
        found["partial_rotary_factor"] = turned / head_dim
    if meta.has("rope.freq_base_swa"):
        found["rope_local_base_freq"] = meta.real("rope.freq_base_swa")
    if found["rope_scaling"] is not None and found["rope_scaling"]["rope_type"] == "longrope":
        found[ORIGINAL] = meta.integer("rope.scaling.original_context_length", positions)
    return found


def _scaling(meta: Metadata, header: GgufHeader, turned: int, theta: float, positions: int) -> dict[str, Any] | None:
    if FREQUENCIES in header.tensors:
        return rope_scaling_from_factors(_factors(meta, header, FREQUENCIES, turned // 2), turned, theta, positions)
    kind = meta.metadata.get(meta.key("rope.scaling.type"))
    if kind == "longrope" or LONG in header.tensors or SHORT in header.tensors:
        # llama.cpp's converter writes LongRoPE's lists and names no type; llama.cpp goes by the lists.
        return _read_longrope(meta, header, turned, positions)
    if kind is None and meta.has("rope.scale_linear"):
        kind, key = "linear", "rope.scale_linear"
    else:
        key = "rope.scaling.factor"
    if kind is None or kind == "none":
        return None
    if kind == "linear":
        factor = meta.real(key)
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _read_yarn(meta, positions)
    raise ModelError(
        f"{meta.path}: rope scaling of the type {kind!r} is not read (linear, llama3, yarn and longrope are)."
    )


def _read_yarn(meta: Metadata, positions: int) -> dict[str, Any]:
    factor = meta.real("rope.scaling.factor")
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        ORIGINAL: meta.integer("rope.scaling.original_context_length", positions),
    }
    for name in ("beta_fast", "beta_slow"):
        if meta.has(f"rope.scaling.yarn_{name}"):
            found[name] = meta.real(f"rope.scaling.yarn_{name}")
    if meta.has("rope.scaling.attn_factor"):
        found["attention_factor"] = shortest(meta.real("rope.scaling.attn_factor") * _yarn_attention(factor))
    return found


def _read_longrope(meta: Metadata, header: GgufHeader, turned: int, positions: int) -> dict[str, Any]:
    original = meta.integer("rope.scaling.original_context_length", positions)
    found: dict[str, Any] = {"rope_type": "longrope"}
    for name, tensor in (("long_factor", LONG), ("short_factor", SHORT)):
        if tensor not in header.tensors:
            raise ModelError(f"{meta.path} has LongRoPE's scaling, but lacks the tensor {tensor}.")
        found[name] = [shortest(value) for value in _factors(meta, header, tensor, turned // 2)]
    usual = _long_attention(positions / original, original)
    attention = meta.real("rope.scaling.attn_factor", usual)
    if not math.isclose(attention, usual, rel_tol=1e-6):
        found["attention_factor"] = attention
    return found


def read_divisors(path: Path, header: GgufHeader) -> dict[str, list[float]]:
    """The tensors of rope divisors in a file, by name, unchanged.

    Raises:
        ModelError: a tensor is not float32.
    """
    present = {name: header.tensors[name] for name in FACTOR_TENSORS if name in header.tensors}
    return {name: _divisors(path, info, math.prod(info.shape)).tolist() for name, info in present.items()}


def _divisors(path: Path, info: TensorInfo, count: int) -> Factors:
    if info.kind != Kind.F32 or info.shape != (count,):
        raise ModelError(f"{path}: {info.name} is {info.kind.name} {info.shape}, not F32 {count}.")
    return np.fromfile(path, dtype="<f4", count=count, offset=info.offset)


def _factors(meta: Metadata, header: GgufHeader, name: str, count: int) -> Factors:
    factors = _divisors(meta.path, header.tensors[name], count)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ModelError(f"{meta.path}: {name} has values that are not positive numbers.")
    return factors


def llama3_factors(
    head_dim: int, theta: float, factor: float, original: int, *, low: float = 1.0, high: float = 4.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The divisors of the inverse frequencies under llama3 scaling.

    Wavelengths beyond `original / low` positions are stretched by `factor`. Those under `original / high` are kept. The
    stretch is interpolated between them. The result has `head_dim / 2` values.
    """
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def rope_scaling_from_factors(factors: Factors, head_dim: int, theta: float, positions: int) -> dict[str, Any] | None:
    """Find the settings that made a tensor of rope divisors: llama3's if they reproduce it, otherwise the list
    itself."""
    if bool((factors == 1.0).all()):
        return None
    factor = float(factors.max())
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    candidates = [8192, positions, *(1 << power for power in range(8, 18))]
    between = np.flatnonzero((factors > 1.0) & (factors < factor))
    if between.size:
        # An interpolated divisor f obeys 1/f = (1-s)/factor + s with s = (original/wavelength - 1)/3.
        smooth = (1.0 / factors[between].astype(np.float64) - 1.0 / factor) / (1.0 - 1.0 / factor)
        candidates.insert(0, round(float(np.median(wavelength[between] * (1.0 + 3.0 * smooth)))))
    for original in candidates:
        # The converter works in float32, so the match cannot be closer than a few of its roundings.
        if original > 0 and np.allclose(llama3_factors(head_dim, theta, factor, original), factors, rtol=2e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": shortest(factor),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    return {"rope_type": "veneer_factors", "factors": [float(value) for value in factors]}
