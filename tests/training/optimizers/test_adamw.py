"""AdamW is the published formula."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.training.tiny_parameters import SHAPES, gradients, parameters
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer


def adamw_by_hand(
    weight: torch.Tensor, grads: list[torch.Tensor], rates: list[float], decay: float, beta1: float, beta2: float
) -> torch.Tensor:
    """Algorithm 2 of arXiv:1711.05101, in float64, a number at a time."""
    flat = weight.detach().double().flatten().tolist()
    first, second = [0.0] * len(flat), [0.0] * len(flat)
    for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        for i, g in enumerate(grad.double().flatten().tolist()):
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g * g
            m, v = first[i] / (1 - beta1**step), second[i] / (1 - beta2**step)
            flat[i] = flat[i] * (1 - rate * decay) - rate * m / (math.sqrt(v) + 1e-8)
    return torch.tensor(flat, dtype=torch.float64).reshape(weight.shape)


@pytest.mark.parametrize(("decay", "betas"), [(0.0, (0.9, 0.999)), (0.1, (0.9, 0.999)), (0.5, (0.8, 0.95))])
def test_adamw_is_the_formula_with_decay_on_matrices_only(decay: float, betas: tuple[float, float]) -> None:
    named = parameters()
    start = {name: p.detach().clone() for name, p in named.items()}
    optimizer = RuleOptimizer(named, AdamW(betas), weight_decay=decay)
    rates = [0.1, 0.05, 0.2, 0.0, 0.01]
    for step, rate in enumerate(rates):
        for name, grad in gradients(step, named).items():
            named[name].grad = grad.clone()
        optimizer.step(rate)
    for name, parameter in named.items():
        grads = [gradients(step, named)[name] for step in range(len(rates))]
        expected = adamw_by_hand(start[name], grads, rates, decay if start[name].ndim == 2 else 0.0, *betas)
        assert (parameter.detach().double() - expected).abs().max() < 1e-6, name


def test_the_state_has_these_names_and_counts_steps() -> None:
    optimizer = RuleOptimizer(parameters(), AdamW((0.9, 0.999)), weight_decay=0.0)
    state = optimizer.tensors()
    assert sorted(state) == sorted(f"{n}/{k}" for n in SHAPES for k in ("step", "exp_avg", "exp_avg_sq"))
    assert all(state[f"{n}/exp_avg"].shape == torch.Size(shape) for n, shape in SHAPES.items())
    for step in range(3):
        for name, grad in gradients(step, optimizer.parameters).items():
            optimizer.parameters[name].grad = grad
        optimizer.step(0.1)
    assert float(state["a/step"]) == 3.0
