"""Shapes of models, what a step of them costs, what cards can do, and random numbers to fill them; a part of gpu.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veneer.model.shape import DecoderSpec

RANK, ALPHA = 16, 32


@dataclass(frozen=True, slots=True)
class Load:
    """How much each part computes."""

    document: int
    """Tokens of a document."""
    tokens: tuple[int, ...]
    """Tokens of a step, one line of the table each."""
    warmup: int
    """Steps that are not timed."""
    steps: int
    """Steps that are."""
    answer: int
    """Tokens of an answer."""


FULL = Load(document=2048, tokens=(2048, 8192), warmup=2, steps=5, answer=64)
"""What is measured on a card."""
DRY = Load(document=64, tokens=(64, 128), warmup=1, steps=1, answer=3)
"""What `--dry-run` computes, on a CPU as well."""


def _config(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocab, "tie_word_embeddings": tied, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "max_position_embeddings": 8192, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip


SIZES = {
    "135m": _config(576, 1536, 30, 9, 3, 49152, True),  # SmolLM2-135M
    "1b": _config(2048, 8192, 16, 32, 8, 128256, True),  # Llama 3.2 1B
    "8b": _config(4096, 14336, 32, 32, 8, 128256, False),  # Llama 3.1 8B
}
TINY = _config(64, 96, 2, 4, 2, 200, False)
"""The model of a dry run."""

PEAKS = {
    "B200": 2250, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "H20": 148, "A100": 312, "L40S": 362,
    "L40": 181, "L4": 121, "A10": 125, "A6000": 155, "RTX 5090": 209, "RTX 4090": 165, "RTX 3090": 71, "T4": 65,
}  # fmt: skip
"""Dense TFLOP/s of 16 bits with float32 sums, from NVIDIA's data sheets; the first name that the card's name holds."""


def matrix_sizes(spec: DecoderSpec) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers of one layer."""
    dim, inner, kv = spec.hidden_size, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    up = (dim, spec.intermediate_size)
    return {
        "q_proj": (dim, inner), "k_proj": (dim, kv), "v_proj": (dim, kv), "o_proj": (inner, dim),
        "gate_proj": up, "up_proj": up, "down_proj": up[::-1],
    }  # fmt: skip


def flops_per_token(spec: DecoderSpec, rank: int, document: int) -> float:
    """FLOPs that training an adapter needs for one token, without any recomputation of activations.

    A frozen weight takes 4 (forward, and the gradient of its input), an adapter's 6 (also its own gradient). Causal
    attention takes 2 · length · inner a layer forward, as half of all pairs count, and 2.5 times that backward.
    """
    sizes = matrix_sizes(spec).values()
    frozen = spec.num_layers * sum(a * b for a, b in sizes) + spec.hidden_size * spec.vocab_size
    adapter = spec.num_layers * rank * sum(a + b for a, b in sizes)
    attention = 3.5 * 2 * document * spec.num_heads * spec.head_dim * spec.num_layers
    return 4.0 * frozen + 6.0 * adapter + attention


def peak_tflops(card: str) -> float | None:
    """What a card of this name computes at most, or None where it is not listed."""
    return next((float(peak) for name, peak in PEAKS.items() if name in card), None)


def row(
    system: str, method: str, tokens: int, seconds: float, peak_bytes: int, flops: float, peak: float | None
) -> str:
    """One line of the table of steps; `flops` for one token, `peak` in TFLOP/s."""
    rate = tokens / seconds
    used = "     -" if peak is None else f"{rate * flops / (peak * 1e12):6.1%}"
    return (
        f"{system:22} {method:6} {tokens:6,} {1000 * seconds:9.1f} ms {rate:9,.0f} {used} {peak_bytes / 2**30:7.1f} GiB"
    )


HEADER = f"{'':22} {'':6} {'tokens':>6} {'step':>12} {'tokens/s':>9} {'MFU':>6} {'memory':>11}"


def random_tensor(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A norm's weight of ones, or a matrix of small random numbers, bfloat16."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)


def documents(tokens: int, vocab: int, length: int) -> list[NDArray[np.int32]]:
    """Random documents, `tokens` in all, as int32 arrays."""
    draws = np.random.default_rng(0)
    return [draws.integers(3, vocab, length, dtype=np.int32) for _ in range(max(1, tokens // length))]
