"""Lion is the published algorithm, and bitsandbytes'."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch

from helpers.training.tiny_parameters import gradients, parameters
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.lion import Lion

RATES = [0.1, 0.05, 0.2, 0.01, 0.1]


@pytest.mark.parametrize(("decay", "betas"), [(0.0, (0.9, 0.99)), (0.3, (0.95, 0.98))])
def test_lion_is_algorithm_2_in_float64(decay: float, betas: tuple[float, float]) -> None:
    named = parameters(dtype=torch.float64)
    expected = {name: p.detach().clone() for name, p in named.items()}
    means = {name: torch.zeros_like(p) for name, p in expected.items()}
    optimizer = RuleOptimizer(named, Lion(betas), weight_decay=decay)
    for step, rate in enumerate(RATES):
        for name, grad in gradients(step, named).items():
            shrink = decay if grad.ndim == 2 else 0.0
            direction = torch.sign(betas[0] * means[name] + (1 - betas[0]) * grad)
            expected[name] = expected[name] - rate * (direction + shrink * expected[name])
            means[name] = betas[1] * means[name] + (1 - betas[1]) * grad
            named[name].grad = grad.clone()
        optimizer.step(rate)
    for name, p in named.items():
        assert torch.allclose(p, expected[name], rtol=1e-12, atol=1e-14), name


def test_lion_is_bitsandbytes() -> None:
    ours, theirs = parameters({"a": (6, 9), "b": (4, 4)}), parameters({"a": (6, 9), "b": (4, 4)})
    optimizer = RuleOptimizer(ours, Lion((0.9, 0.99)), weight_decay=0.1)
    peer = bnb.optim.Lion(theirs.values(), lr=0.03, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(6):
        for name, grad in gradients(step, ours).items():
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        optimizer.step(0.03)
        peer.step()
    assert all(torch.allclose(p, theirs[name], rtol=1e-6, atol=1e-7) for name, p in ours.items())
