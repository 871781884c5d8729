"""A model's configuration both ways: from GGUF metadata to config.json and back, by the rules of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.defaults import with_sizes
from veneer.errors import ModelError, listing
from veneer.io.gguf.families import ARCHITECTURES, BY_MODEL_TYPE, FAMILIES, PATTERN, Config, Family, layer_types
from veneer.io.gguf.header import GgufHeader
from veneer.io.gguf.metadata import Metadata, Value, beyond_32_bits
from veneer.io.gguf.names import Head
from veneer.io.gguf.rope import Factors, read_rope, rope_of, write_rope
from veneer.text.json_numbers import is_whole

# ------------------------------------------------------------------------------------------------------------- reading


def family_in(path: Path, metadata: Mapping[str, Any]) -> Family:
    """The family of a file.

    Raises:
        ModelError: the file has no model, or veneer does not read the family's files.
    """
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError(
            f"{path} has no model: its general.type is {kind!r:.100}. Name the file of the model itself, and give an "
            "adapter as the folder with its adapter_config.json."
        )
    architecture = metadata.get("general.architecture")
    mixture = bool(metadata.get(f"{architecture}.expert_count", 0))
    family = FAMILIES.get((architecture, mixture)) if isinstance(architecture, str) else None
    if family is None:
        experts = " with experts" if mixture else ""
        raise ModelError(
            f"{path} holds the architecture {architecture!r}{experts}; Veneer reads GGUF files of "
            f"{', '.join(ARCHITECTURES)}. Use the model's safetensors checkpoint instead."
        )
    return family


def read_config(family: Family, meta: Metadata, header: GgufHeader) -> dict[str, Any]:
    """Make config.json from the metadata.

    Raises:
        ModelError: a key is missing or does not fit the others, or Veneer does not read such files.
    """
    other = [meta.key(name) for name in family.unread if meta.has(name)]
    if other:
        raise ModelError(f"{meta.path} has {', '.join(other)}: a model of another kind, use its safetensors files.")
    layers = _read_layers(meta, header)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{meta.path} lacks the matrix token_embd.weight.")
    positions = meta.integer("context_length")
    attention = _read_heads(meta)
    rope = read_rope(meta, header, attention["head_dim"], positions)
    if "partial_rotary_factor" in rope and not family.partial:
        raise _one_head_size(meta, "rope.dimension_count", attention["head_dim"])
    if family.partial:
        # Without it the family's own share would be taken, which is a quarter for StableLM.
        rope.setdefault("partial_rotary_factor", 1.0)
    config: dict[str, Any] = {
        "model_type": family.model_types[0],
        "architectures": [family.class_name],
        "hidden_size": meta.integer("embedding_length"),
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": layers,
        **attention,
        family.activation[0]: family.activation[1],
        **rope,
        "max_position_embeddings": positions,
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": family.names.head is Head.NEVER or "output.weight" not in header.tensors,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": meta.token("eos"),
        "pad_token_id": meta.token("padding"),
    }
    for setting in family.settings:
        config |= setting.read(meta)
    config |= _read_switches(family, header)
    if family.architecture == "phi3":
        config["sliding_window"] = meta.integer("attention.sliding_window", 0, least=0) or None
    if family.window_period:
        config["layer_types"] = _read_layer_types(family, meta, layers)
    if family.scaling and config["rope_scaling"] is None:
        config["rope_scaling"] = {"rope_type": "default"}
    return config | dict(family.granted(config))


def _read_layers(meta: Metadata, header: GgufHeader) -> int:
    """The number of layers, after a check that the file has tensors for them: lists of as many layers are made."""
    if not header.tensors:
        raise ModelError(
            f"{meta.path} has no tensors, as files that hold a vocabulary alone: name a file with the model's weights."
        )
    layers = meta.integer("block_count")
    if layers > len(header.tensors):
        raise ModelError(
            f"{meta.path}: the metadata key {meta.key('block_count')} is {layers:,}, and the file has "
            f"{len(header.tensors):,} tensors: layers are missing. Download or convert the file again."
        )
    return layers


def _read_heads(meta: Metadata) -> dict[str, int]:
    heads = meta.integer("attention.head_count")
    head_dim = meta.integer("attention.key_length", meta.integer("embedding_length") // heads)
    if meta.integer("attention.value_length", head_dim) != head_dim:
        raise _one_head_size(meta, "attention.value_length", head_dim)
    kv_heads = meta.integer("attention.head_count_kv", heads)
    if head_dim % 2 or heads % kv_heads:
        raise ModelError(
            f"{meta.path}: {heads} heads of {head_dim} with {kv_heads} key heads cannot be: damaged metadata."
        )
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}


def _one_head_size(meta: Metadata, name: str, head_dim: int) -> ModelError:
    key = meta.key(name)
    return ModelError(f"{meta.path}: {key} is {meta.metadata[key]}, only the head size {head_dim} is supported.")


def _read_switches(family: Family, header: GgufHeader) -> dict[str, bool]:
    """The settings that follow from the tensors of a file."""
    found = {bias.key: f"blk.0.{bias.of[0]}.bias" in header.tensors for bias in family.names.biases if bias.key}
    for row in family.names.rows:
        if row.when:
            there = f"blk.0.{row.ours}.weight" in header.tensors
            found[row.when.removeprefix("!")] = there is not row.when.startswith("!")
    return found


def _read_layer_types(family: Family, meta: Metadata, layers: int) -> list[str]:
    key = meta.key(PATTERN)
    pattern = meta.metadata.get(key, family.window_period)
    if type(pattern) is int and pattern > 0:
        return layer_types(layers, pattern)
    if isinstance(pattern, list) and len(pattern) == layers and all(type(slides) is bool for slides in pattern):
        return ["sliding_attention" if slides else "full_attention" for slides in pattern]
    raise ModelError(f"{meta.path}: the metadata key {key} is {pattern!r}; a period or {layers} flags are needed.")


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Described:
    """A model's configuration from a GGUF file."""

    family: Family
    config: Config
    """The complete config.json, with the family's defaults filled in."""
    values: Mapping[str, Value]
    """The metadata, by full key."""
    factors: Mapping[str, Factors]
    """The tensors of rope divisors, by name."""
    notes: tuple[str, ...]


def family_of(config: Config) -> Family:
    """The family of a config.json.

    Raises:
        ModelError: Veneer does not write it to GGUF.
    """
    family = BY_MODEL_TYPE.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not written to GGUF; written are "
            f"{', '.join(sorted(BY_MODEL_TYPE))}. Export with --to merged, and convert that with llama.cpp's own tools."
        )
    return family


def completed(config: Config) -> dict[str, Any]:
    """`config`, with the values that transformers assumes for missing keys."""
    family = family_of(config)
    full = {"tie_word_embeddings": False, **family.defaults, **with_sizes(config)}
    if config.get("model_type") == "mistral":
        full = {"sliding_window": 4096} | full
    if family.scaling and full.get("rope_parameters") is None and not full.get("rope_scaling"):
        full["rope_scaling"] = family.scaling
    if "num_experts" in family.defaults:
        # transformers 5 writes the other family's name for this setting.
        full["num_experts"] = config.get("num_experts", full.pop("num_local_experts", full["num_experts"]))
    if family.window_period and not full.get("layer_types"):
        full["layer_types"] = layer_types(int(full["num_hidden_layers"]), _period(family, full))
    for bias in family.names.biases:
        if bias.key:
            full.setdefault(bias.key, False)
    for row in family.names.rows:
        if row.when:
            full.setdefault(row.when.removeprefix("!"), False)
    if not full.get("head_dim"):
        full["head_dim"] = int(full["hidden_size"]) // int(full["num_attention_heads"])
    if not full.get("num_key_value_heads"):
        full["num_key_value_heads"] = full["num_attention_heads"]
    return full


def _period(family: Family, full: Config) -> int:
    """The period of layers that see everything: one of this many. Only Gemma 3's configuration may have another
    number."""
    found = full.get("sliding_window_pattern")
    if family.architecture != "gemma3" or found is None:
        return family.window_period
    if not is_whole(found, 1):
        raise ModelError(f"sliding_window_pattern is {found!r}; it must be a whole number of at least 1")
    return found


def describe(config: Config) -> Described:
    """Make the metadata of a model, by the rules of its family.

    Raises:
        ModelError: Veneer does not write the family, or llama.cpp would compute something else; the error lists all
            reasons.
    """
    family, full = family_of(config), completed(config)
    problems = _problems(family, full)
    notes: list[str] = []
    values: dict[str, Value] = {
        "block_count": int(full["num_hidden_layers"]),
        "context_length": _context(family, full, notes),
        "embedding_length": int(full["hidden_size"]),
        "feed_forward_length": int(full["intermediate_size"]),
        "attention.head_count": int(full["num_attention_heads"]),
        "attention.head_count_kv": int(full["num_key_value_heads"]),
        "attention.key_length": int(full["head_dim"]),
        "attention.value_length": int(full["head_dim"]),
        "vocab_size": int(full["vocab_size"]),
    }
    factors: dict[str, Factors] = {}
    for setting in family.settings:
        try:
            values |= setting.write(full)
        except ModelError as error:
            problems.append(str(error))
    try:
        keys, factors = _rope(family, full)
        values |= keys
    except ModelError as error:
        problems.append(str(error))
    if family.window_period:
        slides = [kind == "sliding_attention" for kind in full["layer_types"]]
        if full["layer_types"] != layer_types(len(slides), family.window_period):
            values[PATTERN] = slides
    if family.architecture == "phi3":
        values["attention.sliding_window"] = int(full.get("sliding_window") or 0)
    if family.architecture == "gpt-oss":
        values["expert_feed_forward_length"] = int(full["intermediate_size"])
    if "use_parallel_residual" in full:
        values["use_parallel_residual"] = bool(full["use_parallel_residual"])
    problems += beyond_32_bits(values)
    if problems:
        raise ModelError(
            f"model_type {config.get('model_type')!r} with these settings cannot be written to GGUF, since llama.cpp "
            f"would compute something else:\n{listing(problems)}\nExport with --to merged instead."
        )
    named = {f"{family.architecture}.{key}": value for key, value in values.items()}
    return Described(family, full, named, factors, tuple(notes))


def _rope(family: Family, full: Config) -> tuple[dict[str, Value], dict[str, Factors]]:
    """The metadata of the rotary positions, and the tensors of their divisors.

    Raises:
        ModelError: llama.cpp would compute something else.
    """
    try:
        rope = rope_of(full)
        if rope.partial != 1.0 and not family.partial:
            raise ModelError(f"partial_rotary_factor {rope.partial:g} is not known to llama.cpp for this architecture")
        if rope.kind not in family.ropes:
            raise ModelError(f"rope scaling {rope.kind!r} is not known to llama.cpp for this architecture")
        return write_rope(rope, int(int(full["head_dim"]) * rope.partial), int(full["max_position_embeddings"]))
    except KeyError as error:
        raise ModelError(f"the rope scaling lacks {error}") from error


def _problems(family: Family, full: Config) -> list[str]:
    key, function = family.activation
    found = full.get(key, full.get("hidden_act", function))
    problems = [] if found in (function, "swish" if function == "silu" else function) else [f"{key}: {found!r}"]
    problems += [
        f"{bias.key}: {full[bias.key]!r}, but there is no place for these biases"
        for bias in family.names.biases
        if bias.key and not bias.carried and full[bias.key]
    ]
    for name, value in family.granted(full).items():
        if name in full and full[name] != value and not (full[name] is None and name != "head_dim"):
            problems.append(f"{name}: {full[name]!r}, but llama.cpp assumes {value!r}")
    if family.names.head is Head.NEVER and not full["tie_word_embeddings"]:
        problems.append("tie_word_embeddings: false, but llama.cpp uses the embedding as the head")
    return problems


def context_of(config: Config) -> int:
    """The number of positions the file of a model promises.

    Raises:
        ModelError: see `family_of`.
    """
    return _context(family_of(config), completed(config), [])


def _context(family: Family, full: Config, notes: list[str]) -> int:
    """The number of positions the file promises."""
    positions = int(full["max_position_embeddings"])
    window = full.get("sliding_window")
    acts = full.get("use_sliding_window", full.get("model_type") in ("mistral", "mixtral", "phi3"))
    if family.window_period or not window or not acts:
        return positions
    if not is_whole(window, 1):
        raise ModelError(f"sliding_window is {window!r}; it must be a whole number of at least 1, or null")
    if window >= positions:
        return positions
    notes.append(
        f"the context ends at {window} tokens instead of {positions}: llama.cpp has no sliding window for "
        f"{family.architecture}, and up to there it makes no difference"
    )
    return window
