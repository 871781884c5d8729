from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from helpers.training.tiny_parameters import gradients, parameters
from veneer.training.gradients import clip, drop_gradients, global_norm


def with_gradients(scale: float = 1.0) -> list[nn.Parameter]:
    named = parameters()
    for name, grad in gradients(0, named).items():
        named[name].grad = scale * grad
    return list(named.values())


def test_the_norm_is_that_of_all_gradients_together() -> None:
    found = with_gradients()
    flat = torch.cat([p.grad.double().flatten() for p in found])  # type: ignore[union-attr]
    assert global_norm(found) == pytest.approx(float(flat.square().sum().sqrt()), rel=1e-6)
    found[0].grad = None
    rest = torch.cat([p.grad.double().flatten() for p in found[1:]])  # type: ignore[union-attr]
    assert global_norm(found) == pytest.approx(float(rest.norm()), rel=1e-6)
    assert global_norm([nn.Parameter(torch.ones(2))]) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_norm_of_a_broken_gradient_is_not_finite(bad: float) -> None:
    found = with_gradients()
    found[2].grad.view(-1)[3] = bad  # type: ignore[union-attr]
    assert not math.isfinite(global_norm(found))


@pytest.mark.parametrize("scale", [100.0, 1e-6])
def test_clipping_scales_all_gradients_to_the_limit_and_no_further(scale: float) -> None:
    found = with_gradients(scale)
    before = [p.grad.clone() for p in found]  # type: ignore[union-attr]
    norm = global_norm(found)
    clip(found, norm, norm / 7)
    assert global_norm(found) == pytest.approx(norm / 7, rel=1e-6)
    for p, grad in zip(found, before, strict=True):
        torch.testing.assert_close(p.grad, grad / 7, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_a_limit_of_nothing_or_above_the_norm_changes_no_bit(limit: float) -> None:
    found = with_gradients(scale=100.0)
    before = [p.grad.clone() for p in found]  # type: ignore[union-attr]
    clip(found, global_norm(found), limit)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(found, before, strict=True))  # type: ignore[arg-type]


def test_dropped_gradients_are_gone() -> None:
    found = parameters()
    for parameter in found.values():
        parameter.grad = torch.ones_like(parameter)
    drop_gradients(found.values())
    assert [parameter.grad for parameter in found.values()] == [None] * len(found)
