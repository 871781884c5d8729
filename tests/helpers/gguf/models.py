"""Tiny random models of every family that GGUF files are written of, by transformers' own configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import WrittenGguf, needed, write_model
from veneer.io.tokenizer import from_directory

VOCAB = 304
"""Of tiny.chat_tokenizer's tokens and four rows that no token has."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 256,
    "short_factor": [1.0 + 0.125 * pair for pair in range(8)], "long_factor": [2.0 + pair for pair in range(8)],
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}

CASES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama3 rope": lambda: hf.LlamaConfig(**SIZES, rope_parameters=_LLAMA3),
    "linear rope": lambda: hf.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0}
    ),
    "mistral": lambda: hf.MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": lambda: hf.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 yarn": lambda: hf.Qwen2Config(**SIZES, rope_parameters=_YARN),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, **_GEMMA),
    "gemma3": lambda: hf.Gemma3TextConfig(**{**SIZES, "num_hidden_layers": 7}, **_GEMMA),
    "gemma3 pattern": lambda: hf.Gemma3TextConfig(
        **SIZES, **_GEMMA, layer_types=["sliding_attention", "full_attention", "full_attention"],
        final_logit_softcapping=30.0,
    ),
    "gemma3 one base": lambda: hf.Gemma3TextConfig(
        **SIZES, **_GEMMA, rope_parameters={
            kind: {"rope_type": "default", "rope_theta": 5e4} for kind in ("full_attention", "sliding_attention")
        },
    ),
    "phi3": lambda: hf.Phi3Config(**SIZES, sliding_window=None),
    "phi3 longrope": lambda: hf.Phi3Config(
        **{**SIZES, "max_position_embeddings": 512}, original_max_position_embeddings=256, rope_parameters=_LONG
    ),
    "phi3 partial": lambda: hf.Phi3Config(
        **SIZES,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "olmo2": lambda: hf.Olmo2Config(**SIZES),
    "olmo2 tied": lambda: hf.Olmo2Config(**SIZES, tie_word_embeddings=True),
    "smollm3": lambda: hf.SmolLM3Config(**{**SIZES, "num_hidden_layers": 5}),
    "granite": lambda: hf.GraniteConfig(
        **SIZES, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0
    ),
    "cohere": lambda: hf.CohereConfig(**SIZES, logit_scale=0.5),
    "stablelm": lambda: hf.StableLmConfig(**SIZES, use_qkv_bias=True),
    "mixtral": lambda: hf.MixtralConfig(
        **SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ),
    "qwen3 moe": lambda: hf.Qwen3MoeConfig(
        **SIZES, head_dim=32, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True
    ),
    "gpt-oss": lambda: hf.GptOssConfig(
        **SIZES, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=16,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "stablelm parallel": lambda: hf.StableLmConfig(**SIZES, use_parallel_residual=True, qk_layernorm=True),
}  # fmt: skip


def random_model(config: Any, seed: int = 0) -> nn.Module:
    """A float32 model whose every tensor is random, norms and biases too."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model: nn.Module = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def saved_model(config: Any, folder: Path, seed: int = 0) -> tuple[nn.Module, Checkpoint]:
    """A random model, and its files as transformers writes them."""
    model = random_model(config, seed)
    model.save_pretrained(folder)  # type: ignore[operator]
    return model, open_checkpoint(folder)


def write_file(file: Path, checkpoint: Checkpoint, tokenizer: Path, quant: Quant = Quant.F32) -> WrittenGguf:
    """The GGUF file of a checkpoint, with the tokenizer of another folder."""
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    return write_model(file, checkpoint.config, from_directory(tokenizer), tensors, quant)


def llama_cpp_gap(file: Path, model: nn.Module, prompts: int = 3, *, adapter: Path | None = None) -> float:
    """The largest difference between llama.cpp's ten best log-probabilities and transformers'."""
    gaps = []
    generator = torch.Generator().manual_seed(1)
    with opened(file, context=256, adapter=adapter) as server:
        for number in range(prompts):
            ids = torch.randint(3, 300, (1, 12 if number % 2 else 60), generator=generator)
            step = server.logprobs(ids[0].tolist())
            with torch.no_grad():
                expected = model(ids).logits[0, -1].log_softmax(-1)
            gaps.append(max(abs(float(expected[i]) - p) for i, p in zip(step.ids, step.logprobs, strict=True)))
    return max(gaps)
