"""What holds for every optimiser: states by name, decay of matrices, rates by name, and steps that can be resumed."""

from __future__ import annotations

import pytest
import torch

from helpers.tensors import assert_same_tensors
from helpers.training.tiny_parameters import LARGE, advance, parameters, set_gradients
from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.training.optimizers import adamw8bit, base
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.choose import make_rule

CPU = torch.device("cpu")
NAMES = list(OptimizerName)


def optimizer_of(
    name: OptimizerName, *, weight_decay: float = 0.0, rates: dict[str, float] | None = None, seed: int = 0
) -> RuleOptimizer:
    rule = make_rule(TrainSection(optimizer=name), CPU)
    return RuleOptimizer(parameters(LARGE, seed=seed), rule, weight_decay=weight_decay, rates=rates)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_saved_and_loaded_goes_on_to_the_same_bytes(name: OptimizerName) -> None:
    whole, first = optimizer_of(name, weight_decay=0.1), optimizer_of(name, weight_decay=0.1)
    advance(whole, [0.1] * 3 + [0.05] * 3)
    advance(first, [0.1] * 3)
    second = optimizer_of(name, weight_decay=0.1, seed=9)
    second.load({key: tensor.clone() for key, tensor in first.tensors().items()})
    for key, p in second.parameters.items():
        p.data.copy_(first.parameters[key].data)
    advance(second, [0.05] * 3, first=3)
    assert_same_tensors(whole.parameters, second.parameters)
    assert_same_tensors(whole.tensors(), second.tensors())


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_there_before_the_first_step_and_empty(name: OptimizerName) -> None:
    state = optimizer_of(name).tensors()
    assert {key.partition("/")[0] for key in state} == set(LARGE)
    assert all(not tensor.any() for tensor in state.values())
    moved = optimizer_of(name)
    advance(moved, [0.1])
    assert all(tensor.any() for key, tensor in moved.tensors().items())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_applied_and_cleared(name: OptimizerName) -> None:
    optimizer = optimizer_of(name)
    before = {key: p.detach().clone() for key, p in optimizer.parameters.items()}
    set_gradients(0, optimizer.parameters)
    optimizer.parameters["b"].grad = None
    optimizer.step(0.1)
    assert all(p.grad is None for p in optimizer.parameters.values())
    same = {key for key, p in optimizer.parameters.items() if torch.equal(p, before[key])}
    assert same == {"b"}


@pytest.mark.parametrize("name", NAMES)
def test_matrices_alone_shrink_by_rate_times_decay(name: OptimizerName) -> None:
    plain, decayed = optimizer_of(name), optimizer_of(name, weight_decay=0.5)
    start = {key: p.detach().clone() for key, p in plain.parameters.items()}
    advance(plain, [0.1])
    advance(decayed, [0.1])
    for key, p in plain.parameters.items():
        shrunk = 0.05 * start[key] if start[key].ndim == 2 else torch.zeros_like(start[key])
        assert torch.allclose(p - shrunk, decayed.parameters[key], atol=2e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_by_name_is_that_multiple_of_the_rate(name: OptimizerName) -> None:
    mixed = optimizer_of(name, weight_decay=0.1, rates={"a": 4.0, "wide": 0.5, "norm": 4.0})
    for factor in (1.0, 4.0, 0.5):
        alone = optimizer_of(name, weight_decay=0.1)
        advance(alone, [factor * rate for rate in (0.25, 0.125)])
        if factor == 1.0:
            advance(mixed, [0.25, 0.125])
        for key in LARGE:
            if {"a": 4.0, "wide": 0.5, "norm": 4.0}.get(key, 1.0) == factor:
                assert torch.equal(mixed.parameters[key], alone.parameters[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_a_chunk_changes_no_byte(name: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw8bit, "kernels", lambda: None)
    whole, cut = optimizer_of(name), optimizer_of(name)
    advance(whole, [0.1] * 3)
    monkeypatch.setattr(base, "CHUNK_CPU", 512)
    advance(cut, [0.1] * 3)
    assert_same_tensors(whole.parameters, cut.parameters)
    assert_same_tensors(whole.tensors(), cut.tensors())


def test_a_state_that_lacks_a_tensor_is_refused() -> None:
    optimizer = optimizer_of(OptimizerName.ADAMW)
    state = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    del state["b/exp_avg"]
    with pytest.raises(KeyError):
        optimizer.load(state)


def test_a_state_of_another_optimizer_is_refused() -> None:
    eight, exact = optimizer_of(OptimizerName.ADAMW_8BIT), optimizer_of(OptimizerName.ADAMW)
    with pytest.raises(RuntimeError, match=r"wide/exp_avg is torch.uint8 \[24, 300\]; it must be torch.float32"):
        exact.load(eight.tensors())
    scalar = exact.tensors() | {"a/exp_avg": torch.ones(())}
    with pytest.raises(RuntimeError, match="a/exp_avg"):
        exact.load(scalar)
