"""What a GGUF architecture is in Hugging Face's terms: one entry a family, for reading and for writing.

An entry says which tensors there are (names.py), which settings are keys of the metadata, and what llama.cpp takes for
granted: a setting without a key is put into config.json when a file is read, and is compared with the model when one is
written. What llama.cpp would compute otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veneer.errors import ModelError, listing
from veneer.io.gguf.header import GgufHeader
from veneer.io.gguf.metadata import Metadata, Presence, Setting, Value
from veneer.io.gguf.names import (
    AFTER_NORMS,
    ALL_BIAS,
    ATTENTION,
    COHERE_NORMS,
    FEED_FORWARD,
    FUSED,
    GEMMA_NORMS,
    MLP_BIAS,
    NORMS,
    QK_NORMS,
    QKV_BIAS,
    STABLELM_NORMS,
    WIDE_QK_NORMS,
    Bias,
    Head,
    Names,
)
from veneer.io.gguf.rope import Factors, read_rope, rope_of, write_rope

Config = Mapping[str, Any]
RMS = Setting("rms_norm_eps", "attention.layer_norm_rms_epsilon", float)
LAYER_NORM = Setting("layer_norm_eps", "attention.layer_norm_epsilon", float)
FINAL_CAP = Setting("final_logit_softcapping", "final_logit_softcapping", float, Presence.OPTIONAL)
WINDOW = Setting("sliding_window", "attention.sliding_window", int)
PATTERN = "attention.sliding_window_pattern"
_ANY = frozenset(("default", "linear", "yarn"))


def _nothing(config: Config) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One architecture."""

    architecture: str
    """GGUF's name."""
    model_types: tuple[str, ...]
    """Hugging Face's names of what is written so; the first is what is read."""
    class_name: str
    names: Names
    settings: tuple[Setting, ...] = (RMS,)
    activation: tuple[str, str] = ("hidden_act", "silu")
    """Key of config.json, and the one function that llama.cpp has."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes where config.json does not say, if it is not the Llama family's."""
    granted: Callable[[Config], Mapping[str, Any]] = _nothing
    """Settings that llama.cpp takes for granted, given the others."""
    ropes: frozenset[str] = _ANY
    window_period: int = 0
    """Where llama.cpp knows the sliding window: every so many layers one sees everything. 0 where it does not: a file's
    context then ends where the window would begin to act."""


def _gemma_scalar(config: Config, layers_of_27b: int) -> int:
    """The number whose root divides the scores: Gemma's 27B models are known to llama.cpp by their layers."""
    if config["num_hidden_layers"] == layers_of_27b:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return int(config["head_dim"])


def _layer_types(layers: int, period: int) -> list[str]:
    return ["full_attention" if layer % period == 0 else "sliding_attention" for layer in range(1, layers + 1)]


def _gemma2(config: Config) -> dict[str, Any]:
    return {"query_pre_attn_scalar": _gemma_scalar(config, 46)}


def _gemma3(config: Config) -> dict[str, Any]:
    return {
        "query_pre_attn_scalar": _gemma_scalar(config, 62),
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }


def _smollm3(config: Config) -> dict[str, Any]:
    interval = {} if config.get("no_rope_layers") else {"no_rope_layer_interval": 4}
    layers = range(1, int(config["num_hidden_layers"]) + 1)
    return {"no_rope_layers": [int(layer % 4 != 0) for layer in layers]} | interval


def _whole_heads(config: Config) -> dict[str, Any]:
    return {"head_dim": int(config["hidden_size"]) // int(config["num_attention_heads"])}


def _cohere(config: Config) -> dict[str, Any]:
    return _whole_heads(config) | {"use_qk_norm": int(config["num_hidden_layers"]) >= 64}


_PLAIN_BIAS = (Bias(ALL_BIAS, "attention_bias"), Bias(MLP_BIAS, "mlp_bias"))
_NO_BIAS = (Bias(ALL_BIAS, "attention_bias", carried=False),)

_ALL = (
    Family(
        architecture="llama",
        model_types=("llama", "mistral"),
        class_name="LlamaForCausalLM",
        names=Names(rows=(*NORMS, *ATTENTION, *FEED_FORWARD), biases=_PLAIN_BIAS, interleaved=True),
        ropes=_ANY | {"llama3", "veneer_factors"},
    ),
    Family(
        architecture="qwen2",
        model_types=("qwen2",),
        class_name="Qwen2ForCausalLM",
        names=Names(rows=(*NORMS, *ATTENTION, *FEED_FORWARD), biases=(Bias(QKV_BIAS),)),
        granted=_whole_heads,
    ),
    Family(
        architecture="qwen3",
        model_types=("qwen3",),
        class_name="Qwen3ForCausalLM",
        names=Names(rows=(*NORMS, *QK_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS),
        defaults={"head_dim": 128},
    ),
    Family(
        architecture="gemma2",
        model_types=("gemma2",),
        class_name="Gemma2ForCausalLM",
        names=Names(rows=(*GEMMA_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS, head=Head.NEVER, norm_offset=1.0),
        settings=(
            RMS,
            WINDOW,
            Setting("attn_logit_softcapping", "attn_logit_softcapping", float),
            Setting("final_logit_softcapping", "final_logit_softcapping", float),
        ),
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        defaults={
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        granted=_gemma2,
        window_period=2,
    ),
    Family(
        architecture="gemma3",
        model_types=("gemma3_text",),
        class_name="Gemma3ForCausalLM",
        names=Names(rows=(*GEMMA_NORMS, *QK_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS, norm_offset=1.0),
        settings=(RMS, WINDOW, FINAL_CAP),
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        defaults={
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        granted=_gemma3,
        ropes=frozenset(("default", "linear")),
        window_period=6,
    ),
    Family(
        architecture="phi3",
        model_types=("phi3",),
        class_name="Phi3ForCausalLM",
        names=Names(rows=(*NORMS, *FUSED), biases=_NO_BIAS),
        granted=_whole_heads,
        ropes=frozenset(("default", "longrope")),
    ),
    Family(
        architecture="olmo2",
        model_types=("olmo2",),
        class_name="Olmo2ForCausalLM",
        names=Names(rows=(*AFTER_NORMS, *WIDE_QK_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS, head=Head.ALWAYS),
        granted=_whole_heads,
    ),
    Family(
        architecture="smollm3",
        model_types=("smollm3",),
        class_name="SmolLM3ForCausalLM",
        names=Names(
            rows=(*NORMS, *ATTENTION, *FEED_FORWARD),
            biases=(*_NO_BIAS, Bias(MLP_BIAS, "mlp_bias", carried=False)),
            interleaved=True,
        ),
        defaults={"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
        granted=_smollm3,
    ),
    Family(
        architecture="granite",
        model_types=("granite",),
        class_name="GraniteForCausalLM",
        names=Names(rows=(*NORMS, *ATTENTION, *FEED_FORWARD), biases=_PLAIN_BIAS, interleaved=True),
        settings=(
            RMS,
            Setting("attention_multiplier", "attention.scale", float),
            Setting("embedding_multiplier", "embedding_scale", float),
            Setting("residual_multiplier", "residual_scale", float),
            Setting("logits_scaling", "logit_scale", float),
        ),
        defaults=dict.fromkeys(
            ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0
        ),
        ropes=_ANY | {"llama3", "veneer_factors"},
    ),
    Family(
        architecture="command-r",
        model_types=("cohere",),
        class_name="CohereForCausalLM",
        names=Names(rows=(*COHERE_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS, head=Head.NEVER),
        settings=(LAYER_NORM, Setting("logit_scale", "logit_scale", float)),
        defaults={"rope_theta": 500_000.0, "tie_word_embeddings": True, "logit_scale": 0.0625, "layer_norm_eps": 1e-5},
        granted=_cohere,
    ),
    Family(
        architecture="stablelm",
        model_types=("stablelm",),
        class_name="StableLmForCausalLM",
        names=Names(
            rows=(*STABLELM_NORMS, *ATTENTION, *FEED_FORWARD),
            biases=(Bias(QKV_BIAS, "use_qkv_bias"), Bias(("attn_norm", "ffn_norm", "output_norm"))),
            head=Head.ALWAYS,
        ),
        settings=(LAYER_NORM,),
        granted=_whole_heads,
        defaults={"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5},
    ),
)
FAMILIES: dict[str, Family] = {family.architecture: family for family in _ALL}
"""Families by GGUF's name."""
BY_MODEL_TYPE: dict[str, Family] = {name: family for family in _ALL for name in family.model_types}
"""Families by Hugging Face's name."""


# ------------------------------------------------------------------------------------------------------------- reading


def read_config(family: Family, meta: Metadata, header: GgufHeader) -> dict[str, Any]:
    """config.json from the metadata.

    Raises:
        ModelError: a key is missing or does not fit the others, or the file is of a kind that is not read.
    """
    if meta.integer("expert_count", 0, least=0):
        raise ModelError(
            f"{meta.path} is a mixture of experts, which is not read from GGUF: use its safetensors files."
        )
    hidden = meta.integer("embedding_length")
    heads = meta.integer("attention.head_count")
    head_dim = meta.integer("attention.key_length", hidden // heads)
    if meta.integer("attention.value_length", head_dim) != head_dim:
        key = meta.key("attention.value_length")
        raise ModelError(f"{meta.path}: {key} is {meta.metadata[key]}, only the head size {head_dim} is supported.")
    kv_heads = meta.integer("attention.head_count_kv", heads)
    if head_dim % 2 or heads % kv_heads:
        raise ModelError(
            f"{meta.path}: {heads} heads of {head_dim} with {kv_heads} key heads cannot be: damaged metadata."
        )
    layers = meta.integer("block_count", most=len(header.tensors))
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{meta.path} lacks the matrix token_embd.weight.")
    positions = meta.integer("context_length")
    rope = read_rope(meta, header, head_dim, positions)
    if "partial_rotary_factor" in rope and family.architecture in ("llama", "qwen2", "gemma2", "gemma3"):
        key = meta.key("rope.dimension_count")
        raise ModelError(f"{meta.path}: {key} is {meta.metadata[key]}, only the head size {head_dim} is supported.")
    config: dict[str, Any] = {
        "model_type": family.model_types[0],
        "architectures": [family.class_name],
        "hidden_size": hidden,
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
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
    for bias in family.names.biases:
        if bias.key:
            config[bias.key] = f"blk.0.{bias.of[0]}.bias" in header.tensors
    for row in family.names.rows:
        if row.when:
            there = f"blk.0.{row.ours}.weight" in header.tensors
            config[row.when.removeprefix("!")] = there is not row.when.startswith("!")
    if family.window_period:
        config["layer_types"] = _read_layer_types(family, meta, layers)
    return config | dict(family.granted(config))


def _read_layer_types(family: Family, meta: Metadata, layers: int) -> list[str]:
    key = meta.key(PATTERN)
    pattern = meta.metadata.get(key, family.window_period)
    if type(pattern) is int and pattern > 0:
        return _layer_types(layers, pattern)
    if isinstance(pattern, list) and len(pattern) == layers and all(type(slides) is bool for slides in pattern):
        return ["sliding_attention" if slides else "full_attention" for slides in pattern]
    raise ModelError(f"{meta.path}: the metadata key {key} is {pattern!r}, a period or {layers} flags are needed.")


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Described:
    """A model's configuration as a GGUF file says it."""

    family: Family
    config: Config
    """Complete: with the family's defaults."""
    values: Mapping[str, Value]
    """Metadata by full key."""
    factors: Mapping[str, Factors]
    """Tensors of rope divisors."""
    notes: tuple[str, ...]


def family_of(config: Config) -> Family:
    """The family of a config.json. Raises ModelError where GGUF files of it are not written."""
    family = BY_MODEL_TYPE.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not written to GGUF; written are "
            f"{', '.join(sorted(BY_MODEL_TYPE))}. Export with --to merged, and convert that with llama.cpp's own tools."
        )
    return family


def completed(config: Config) -> dict[str, Any]:
    """`config` with what transformers takes where it does not say."""
    family = family_of(config)
    full = {"tie_word_embeddings": False, "max_position_embeddings": 2048, **family.defaults, **config}
    if config.get("model_type") == "mistral":
        full.setdefault("sliding_window", 4096)
    if family.window_period and not full.get("layer_types"):
        period = int(full.get("sliding_window_pattern") or family.window_period)
        full["layer_types"] = _layer_types(int(full["num_hidden_layers"]), period)
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


def describe(config: Config) -> Described:
    """The metadata of a model, by the rules of its family.

    Raises:
        ModelError: the family is not written, or llama.cpp would compute something else; every reason is named.
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
        rope = rope_of(full)
        if rope.kind not in family.ropes:
            raise ModelError(f"rope scaling {rope.kind!r} is not known to llama.cpp for this architecture")
        keys, factors = write_rope(
            rope, int(int(full["head_dim"]) * rope.partial), int(full["max_position_embeddings"])
        )
        values |= keys
    except (ModelError, KeyError) as error:
        problems.append(str(error) if isinstance(error, ModelError) else f"the rope scaling lacks {error}")
    if family.window_period:
        slides = [kind == "sliding_attention" for kind in full["layer_types"]]
        if full["layer_types"] != _layer_types(len(slides), family.window_period):
            values[PATTERN] = slides
    if "use_parallel_residual" in full:
        values["use_parallel_residual"] = bool(full["use_parallel_residual"])
    if problems:
        raise ModelError(
            f"model_type {config.get('model_type')!r} with these settings cannot be written to GGUF, since llama.cpp "
            f"would compute something else:\n{listing(problems)}\nExport with --to merged instead."
        )
    named = {f"{family.architecture}.{key}": value for key, value in values.items()}
    return Described(family, full, named, factors, tuple(notes))


def _problems(family: Family, full: Config) -> list[str]:
    key, function = family.activation
    found = full.get(key, full.get("hidden_act", function))
    problems = [] if found in (function, "swish" if function == "silu" else function) else [f"{key}: {found!r}"]
    problems += [
        f"{bias.key}: {full[bias.key]!r}, and there is no place for these biases"
        for bias in family.names.biases
        if bias.key and not bias.carried and full[bias.key]
    ]
    for name, value in family.granted(full).items():
        if name in full and full[name] != value and not (full[name] is None and name != "head_dim"):
            problems.append(f"{name}: {full[name]!r}, and llama.cpp takes {value!r}")
    if family.names.head is Head.NEVER and not full["tie_word_embeddings"]:
        problems.append("tie_word_embeddings: false, and llama.cpp takes the embedding for the head")
    return problems


def _context(family: Family, full: Config, notes: list[str]) -> int:
    """Positions that the file promises."""
    positions = int(full["max_position_embeddings"])
    window = full.get("sliding_window")
    acts = full.get("use_sliding_window", family.architecture in ("llama", "phi3"))
    if family.window_period or not window or not acts or int(window) >= positions:
        return positions
    notes.append(
        f"the context ends at {window} tokens instead of {positions}: llama.cpp has no sliding window for "
        f"{family.architecture}, and up to there it makes no difference"
    )
    return int(window)
