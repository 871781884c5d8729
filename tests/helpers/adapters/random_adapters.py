"""Paths of a tiny model, and an adapter with random weights."""

from __future__ import annotations

import torch

from veneer.adapters.adapter import Adapter

LEAVES = [
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
]
PATHS = [f"model.layers.{layer}.{leaf}" for layer in range(2) for leaf in LEAVES]


def randomised(adapter: Adapter, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapter
