"""Tiny random models of architectures that the own decoder does not know, as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from helpers.models.tiny import TEMPLATE, chat_tokenizer

VOCAB = 96
_SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_GATED: dict[str, Any] = {**_SMALL, "intermediate_size": 112, "num_key_value_heads": 2, "max_position_embeddings": 512}

SHAPES: dict[str, dict[str, Any]] = {
    "gpt_neox": {**_SMALL, "intermediate_size": 112, "max_position_embeddings": 512},
    "falcon": {**_SMALL, "bias": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "deepseek_v3": _GATED
    | {"num_key_value_heads": 4, "moe_intermediate_size": 48, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
    | {"num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "v_head_dim": 16}
    | {"qk_nope_head_dim": 16, "first_k_dense_replace": 1},
}
"""The shapes that this path is promised for."""

OTHERS: dict[str, dict[str, Any]] = {
    "cohere": {**_GATED, "logit_scale": 0.25},
    "gemma2": {**_GATED, "head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 3.0},
    "granite": {**_GATED, "logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 8},
    "phi": {**_GATED, "partial_rotary_factor": 0.5},
    "opt": {**_SMALL, "ffn_dim": 112, "word_embed_proj_dim": 48, "max_position_embeddings": 512},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "stablelm": {**_GATED, "partial_rotary_factor": 0.25},
    "mixtral": {**_GATED, "num_local_experts": 4},
    "phimoe": {**_GATED, "num_local_experts": 4},
    "minimax": {**_GATED, "num_local_experts": 4, "head_dim": 16},
    "falcon_h1": {**_GATED, "head_dim": 16, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128}
    | {"mamba_d_state": 16, "lm_head_multiplier": 0.25},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "falcon_mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "biogpt": {**_SMALL, "intermediate_size": 112, "max_position_embeddings": 512},
    "modernbert-decoder": {**_GATED, "local_attention": 16, "layer_types": ["full_attention", "sliding_attention"]},
    "llama": dict(_GATED),
    "roformer": {**_SMALL, "intermediate_size": 112, "embedding_size": 64, "is_decoder": True},
    "roberta": {**_SMALL, "intermediate_size": 112, "max_position_embeddings": 512, "is_decoder": True},
}
"""Ways to be a language model that those do not have: scaled and capped scores, a head with a bias, projected
embeddings, biases by distance instead of positions, positions from behind the padding token's id, sliding windows,
routers of their own, linear attention, no attention at all."""

LIKE_ROBERTA: dict[str, dict[str, Any]] = dict.fromkeys(
    ("roberta-prelayernorm", "data2vec-text", "xlm-roberta-xl", "xlm-roberta", "camembert"), OTHERS["roberta"]
)
"""Relatives of RoBERTa. The last two have a head before their body, so that a tied weight is met as the head's."""


def tiny_hf(kind: str, *, vocab: int = VOCAB, seed: int = 0, changes: dict[str, Any] | None = None) -> PreTrainedModel:
    """A float32 model in evaluation mode; every tensor is random, norms and biases too."""
    named = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    values = (SHAPES | OTHERS | LIKE_ROBERTA)[kind] | named | (changes or {})
    config = CONFIG_MAPPING[kind].from_dict(values)
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * drawn)
            elif "A_log" not in name:
                parameter.copy_(0.15 * drawn)
    return model


def write_hf_model(path: Path, kind: str, *, template: bool = True, changes: dict[str, Any] | None = None) -> Path:
    """Such a model with a tokenizer, as a Hugging Face directory."""
    backend = chat_tokenizer()
    tiny_hf(kind, vocab=backend.get_vocab_size(), changes=changes).save_pretrained(path)
    backend.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    settings |= {"chat_template": TEMPLATE} if template else {}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def their_model(path: Path) -> PreTrainedModel:
    """transformers' own, as it loads the directory."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def their_loss(model: torch.nn.Module, tokens: Sequence[int], mask: Sequence[int]) -> Tensor:
    """Sum of the cross-entropies that transformers' model gives the tokens that count, by itself."""
    ids = torch.tensor([list(tokens)])
    counted = torch.tensor([[bool(m) for m in mask]])
    labels = torch.where(counted, ids, -100)
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss * int(counted[:, 1:].sum())
