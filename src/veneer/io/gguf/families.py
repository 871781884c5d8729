"""What a GGUF architecture is in Hugging Face's terms: one entry for each family, for reading and for writing.

An entry says which tensors exist (names.py), which settings are keys of the metadata, and what llama.cpp assumes. A
setting without a key is put into config.json when a file is read. When a file is written, the setting is compared with
the model, and a model that llama.cpp would compute differently is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veneer.defaults import GPT_OSS_SCALING
from veneer.io.gguf.metadata import Presence, Setting
from veneer.io.gguf.names import (
    AFTER_NORMS,
    ALL_BIAS,
    ATTENTION,
    COHERE_NORMS,
    EXPERT_BIAS,
    EXPERTS,
    FEED_FORWARD,
    FUSED,
    GEMMA_NORMS,
    GPT_OSS,
    MLP_BIAS,
    NORMS,
    QK_NORMS,
    QKV_BIAS,
    STABLELM_NORMS,
    WIDE_QK_NORMS,
    BiasRow,
    Head,
    Names,
)

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
    """A family of models: one architecture of GGUF."""

    architecture: str
    """GGUF's name of the architecture."""
    model_types: tuple[str, ...]
    """The Hugging Face model types that are written as this family. A file is read as the first of them."""
    class_name: str
    names: Names
    settings: tuple[Setting, ...] = (RMS,)
    activation: tuple[str, str] = ("hidden_act", "silu")
    """The key of the activation in config.json, and the one function that llama.cpp has."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The values that transformers assumes for missing keys of config.json, if they differ from the Llama family's."""
    granted: Callable[[Config], Mapping[str, Any]] = _nothing
    """Returns the settings that llama.cpp assumes, given the others."""
    ropes: frozenset[str] = _ANY
    partial: bool = False
    """Whether the rotary positions may turn only a part of a head."""
    scaling: Mapping[str, Any] | None = None
    """The scaling of rotary positions that transformers assumes if config.json names none."""
    unread: tuple[str, ...] = ()
    """Keys that mark another model of the architecture, one that Veneer does not read."""
    mixture: bool = False
    """Whether the feed-forward blocks are made of experts."""
    window_period: int = 0
    """One of this many layers sees everything, if llama.cpp knows the sliding window. If it does not, this is 0, and
    the context of a file ends where the window would begin to act."""


def _gemma_scalar(config: Config, layers_of_27b: int) -> int:
    """The number whose root divides the scores; llama.cpp knows Gemma's 27B models by their number of layers."""
    if config["num_hidden_layers"] == layers_of_27b:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return int(config["head_dim"])


def layer_types(layers: int, period: int) -> list[str]:
    """The `layer_types` of config.json for a model in which one of `period` layers sees everything."""
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


def _qwen3_moe(config: Config) -> dict[str, Any]:
    return {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}


def _gpt_oss(config: Config) -> dict[str, Any]:
    return {"swiglu_limit": 7.0, "swiglu_alpha": 1.702, "attention_bias": True}


LOCAL_EXPERTS = Setting("num_local_experts", "expert_count", int)
TOP_K = Setting("num_experts_per_tok", "expert_used_count", int)
_PLAIN_BIAS = (BiasRow(ALL_BIAS, "attention_bias"), BiasRow(MLP_BIAS, "mlp_bias"))
_NO_BIAS = (BiasRow(ALL_BIAS, "attention_bias", carried=False),)

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
        names=Names(rows=(*NORMS, *ATTENTION, *FEED_FORWARD), biases=(BiasRow(QKV_BIAS),)),
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
            Setting("sliding_window", "attention.sliding_window", int, assumed=4096),
            Setting("attn_logit_softcapping", "attn_logit_softcapping", float, assumed=50.0),
            Setting("final_logit_softcapping", "final_logit_softcapping", float, assumed=30.0),
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
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "rms_norm_eps": 1e-6,
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
        defaults={"original_max_position_embeddings": 4096},
        ropes=frozenset(("default", "longrope")),
        partial=True,
    ),
    Family(
        architecture="olmo2",
        model_types=("olmo2",),
        class_name="Olmo2ForCausalLM",
        names=Names(rows=(*AFTER_NORMS, *WIDE_QK_NORMS, *ATTENTION, *FEED_FORWARD), biases=_NO_BIAS, head=Head.ALWAYS),
        granted=_whole_heads,
        unread=("attention.sliding_window",),  # OLMo-3
    ),
    Family(
        architecture="smollm3",
        model_types=("smollm3",),
        class_name="SmolLM3ForCausalLM",
        names=Names(
            rows=(*NORMS, *ATTENTION, *FEED_FORWARD),
            biases=(*_NO_BIAS, BiasRow(MLP_BIAS, "mlp_bias", carried=False)),
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
            biases=(BiasRow(QKV_BIAS, "use_qkv_bias"), BiasRow(("attn_norm", "ffn_norm", "output_norm"))),
            head=Head.ALWAYS,
        ),
        settings=(LAYER_NORM,),
        granted=_whole_heads,
        defaults={"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5},
        partial=True,
    ),
    Family(
        architecture="llama",
        model_types=("mixtral",),
        class_name="MixtralForCausalLM",
        names=Names(rows=(*NORMS, *ATTENTION, *EXPERTS), interleaved=True),
        settings=(RMS, LOCAL_EXPERTS, TOP_K),
        defaults={
            "rope_theta": 1_000_000.0,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        mixture=True,
    ),
    Family(
        architecture="qwen3moe",
        model_types=("qwen3_moe",),
        class_name="Qwen3MoeForCausalLM",
        names=Names(rows=(*NORMS, *QK_NORMS, *ATTENTION, *EXPERTS), biases=_NO_BIAS),
        settings=(
            RMS,
            Setting("num_experts", "expert_count", int),
            TOP_K,
            Setting("moe_intermediate_size", "expert_feed_forward_length", int),
        ),
        defaults={"norm_topk_prob": False, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
        granted=_qwen3_moe,
        mixture=True,
    ),
    Family(
        architecture="gpt-oss",
        model_types=("gpt_oss",),
        class_name="GptOssForCausalLM",
        names=Names(rows=(*GPT_OSS, *ATTENTION), biases=(BiasRow((*ALL_BIAS, *EXPERT_BIAS)),), head=Head.ALWAYS),
        settings=(RMS, WINDOW, LOCAL_EXPERTS, TOP_K),
        defaults={
            "head_dim": 64,
            "rope_theta": 150_000.0,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "attention_bias": True,
        },
        granted=_gpt_oss,
        scaling=GPT_OSS_SCALING,
        mixture=True,
        window_period=2,
    ),
)
FAMILIES: dict[tuple[str, bool], Family] = {(family.architecture, family.mixture): family for family in _ALL}
"""The families, by GGUF's name and whether there are experts."""
ARCHITECTURES = sorted({family.architecture for family in _ALL})
BY_MODEL_TYPE: dict[str, Family] = {name: family for family in _ALL for name in family.model_types}
"""The families, by Hugging Face's name."""
