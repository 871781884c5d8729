from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from veneer.config import Method, Schedule
from veneer.training.optim import AdamW, RateSchedule, auto_learning_rate, clip, global_norm


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (5, 3), "norm": (7,), "b": (3, 4), "scalar": ()}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def gradients(step: int, named: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, generator=generator) for name, p in named.items()}


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
    optimizer = AdamW(named, weight_decay=decay, betas=betas)
    rates = [0.1, 0.05, 0.2, 0.0, 0.01]
    for step, rate in enumerate(rates):
        for name, grad in gradients(step, named).items():
            named[name].grad = grad.clone()
        optimizer.step(rate)
        assert all(p.grad is None for p in named.values())
    for name, parameter in named.items():
        grads = [gradients(step, named)[name] for step in range(len(rates))]
        expected = adamw_by_hand(start[name], grads, rates, decay if start[name].ndim == 2 else 0.0, *betas)
        assert (parameter.detach().double() - expected).abs().max() < 1e-6, name


def test_the_state_goes_round_through_tensors_bit_by_bit() -> None:
    one, other = parameters(), parameters()
    first = AdamW(one, weight_decay=0.1, betas=(0.9, 0.999))
    for step in range(3):
        for name, grad in gradients(step, one).items():
            one[name].grad = grad
        first.step(0.1)
    second = AdamW(other, weight_decay=0.1, betas=(0.9, 0.999))
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    for name, p in other.items():
        p.data.copy_(one[name].data)
    for step in range(3, 6):
        for named, optimizer in ((one, first), (other, second)):
            for name, grad in gradients(step, named).items():
                named[name].grad = grad
            optimizer.step(0.05)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), second.tensors().values(), strict=True))
    assert float(first.tensors()["a/step"]) == 6.0


def test_the_state_is_there_before_the_first_step_under_these_names() -> None:
    state = AdamW(parameters(), weight_decay=0.0, betas=(0.9, 0.999)).tensors()
    assert sorted(state) == sorted(f"{n}/{k}" for n in parameters() for k in ("step", "exp_avg", "exp_avg_sq"))
    assert all(not tensor.any() for tensor in state.values())
    assert all(state[f"{n}/exp_avg"].shape == p.shape for n, p in parameters().items())


def test_a_state_that_lacks_a_tensor_is_refused() -> None:
    optimizer = AdamW(parameters(), weight_decay=0.0, betas=(0.9, 0.999))
    state = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    del state["b/exp_avg"]
    with pytest.raises(KeyError):
        optimizer.load(state)


# ------------------------------------------------------------------------------------------------------------ schedule


def rates(shape: Schedule, *, steps: int = 20, warmup: float = 0.0, end: float = 0.0) -> list[float]:
    schedule = RateSchedule(peak=2.0, steps=steps, warmup=warmup, shape=shape, end=end)
    return [schedule.at(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize("shape", list(Schedule))
def test_without_warmup_the_first_step_has_the_peak(shape: Schedule) -> None:
    assert rates(shape)[0] == 2.0


@pytest.mark.parametrize("shape", list(Schedule))
@pytest.mark.parametrize(("warmup", "rising"), [(0.03, 1), (0.1, 2), (0.5, 10), (0.99, 20)])
def test_the_warmup_rises_evenly_from_above_zero_to_below_the_peak(shape: Schedule, warmup: float, rising: int) -> None:
    found = rates(shape, warmup=warmup)[:rising]
    assert found == pytest.approx([2.0 * n / (rising + 1) for n in range(1, rising + 1)])
    assert all(0 < rate < 2.0 for rate in found)
    if rising < 20:
        assert rates(shape, warmup=warmup)[rising] == 2.0


def test_the_falls_are_these_curves() -> None:
    assert rates(Schedule.LINEAR) == pytest.approx([2.0 * (1 - n / 20) for n in range(20)])
    assert rates(Schedule.COSINE) == pytest.approx([1 + math.cos(math.pi * n / 20) for n in range(20)])
    assert rates(Schedule.CONSTANT) == [2.0] * 20
    ended = rates(Schedule.LINEAR, end=0.25)
    assert ended == pytest.approx([2.0 * (0.25 + 0.75 * (1 - n / 20)) for n in range(20)])


@pytest.mark.parametrize("shape", list(Schedule))
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.9])
def test_no_step_of_a_short_run_is_wasted(shape: Schedule, steps: int, warmup: float) -> None:
    found = rates(shape, steps=steps, warmup=warmup)
    assert len(found) == steps
    assert all(0 < rate <= 2.0 and math.isfinite(rate) for rate in found)


def test_auto_rate_is_the_published_fit() -> None:
    assert auto_learning_rate(Method.LORA, 2000) == pytest.approx(5e-4)
    assert auto_learning_rate(Method.LORA, 576) == pytest.approx(5e-5 * 10 * (2000 / 576) ** 0.78)
    assert auto_learning_rate(Method.QLORA, 576) == auto_learning_rate(Method.LORA, 576)
    assert auto_learning_rate(Method.FULL, 576) == pytest.approx(auto_learning_rate(Method.LORA, 576) / 10)
    assert auto_learning_rate(Method.LORA, 4096) < auto_learning_rate(Method.LORA, 576)


# ---------------------------------------------------------------------------------------------------------------- norm


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


def test_clipping_scales_all_gradients_to_the_limit_and_no_further() -> None:
    found = with_gradients(scale=100.0)
    before = [p.grad.clone() for p in found]  # type: ignore[union-attr]
    norm = global_norm(found)
    clip(found, norm, 0.5)
    assert global_norm(found) == pytest.approx(0.5, rel=1e-5)
    for p, grad in zip(found, before, strict=True):
        assert torch.allclose(p.grad, grad * (0.5 / norm), rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_a_limit_of_nothing_or_above_the_norm_changes_no_bit(limit: float) -> None:
    found = with_gradients(scale=100.0)
    before = [p.grad.clone() for p in found]  # type: ignore[union-attr]
    clip(found, global_norm(found), limit)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(found, before, strict=True))  # type: ignore[arg-type]
