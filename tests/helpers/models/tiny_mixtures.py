"""Tiny random mixtures from transformers' own configurations."""

from __future__ import annotations

from typing import Any

from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from helpers.models.tiny_models import randomised

EXPERTS = 4
SHAPES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "num_experts_per_tok": 2, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
KINDS = ("mixtral", "qwen3_moe", "gpt_oss")


def tiny_mixture(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 model in evaluation mode; every tensor is random, norms, biases and sinks too."""
    shapes = SHAPES | changes
    if kind == "mixtral":
        model: PreTrainedModel = MixtralForCausalLM(MixtralConfig(**({"num_local_experts": EXPERTS} | shapes)))
    elif kind == "qwen3_moe":
        own = {"num_experts": EXPERTS, "moe_intermediate_size": 40, "norm_topk_prob": True}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**(own | shapes)))
    else:
        rope = {
            "rope_type": "yarn", "rope_theta": 150_000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, "original_max_position_embeddings": 32,
        }  # fmt: skip
        own = {"num_local_experts": EXPERTS, "sliding_window": 6, "rope_parameters": rope, "swiglu_limit": 1.0}
        model = GptOssForCausalLM(GptOssConfig(**(own | shapes)))
    return randomised(model, seed)
