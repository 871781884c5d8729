"""Adafactor is transformers', with an external rate, and keeps next to nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import Adafactor as Peer

from helpers.tensors import assert_same_tensors
from helpers.training.tiny_parameters import gradients, parameters
from veneer.training.optimizers.adafactor import Adafactor
from veneer.training.optimizers.base import RuleOptimizer

RATES = [0.1, 0.05, 0.2, 0.0, 0.01, 0.1]
SHAPES = {"a": (5, 3), "b": (3, 40), "norm": (7,), "scalar": ()}


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adafactor_is_transformers(dtype: torch.dtype, near: float, decay: float) -> None:
    ours, theirs = (parameters(SHAPES, dtype=dtype) for _ in range(2))
    optimizer = RuleOptimizer(ours, Adafactor(), weight_decay=decay)
    groups = [
        {"params": [p for p in theirs.values() if (p.ndim == 2) is matrix], "weight_decay": decay if matrix else 0.0}
        for matrix in (True, False)
    ]
    peer = Peer(groups, lr=1.0, scale_parameter=False, relative_step=False)
    for step, rate in enumerate(RATES):
        for name, grad in gradients(step, ours).items():
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        optimizer.step(rate)
        for group in peer.param_groups:
            group["lr"] = rate
        peer.step()
    for name, p in ours.items():
        assert torch.allclose(p, theirs[name], rtol=near, atol=near), name


def test_gradients_of_zero_change_nothing_and_are_forgotten() -> None:
    """As A's are in LoRA's first step, while B is zero."""
    named = parameters(SHAPES)
    optimizer = RuleOptimizer(named, Adafactor(), weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in named.items()}
    for p in named.values():
        p.grad = torch.zeros_like(p)
    optimizer.step(0.1)
    assert_same_tensors(before, named)
    for name, grad in gradients(1, named).items():
        named[name].grad = grad
    optimizer.step(0.1)
    for name, p in named.items():
        moved = (p.detach() - before[name]).square().mean().sqrt()
        assert 0.01 < float(moved) <= 0.1001, name
