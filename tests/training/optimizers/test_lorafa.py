"""LoRA-FA projects as PEFT's optimiser does, and the projection is the least-squares answer that it is said to be."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_lorafa_optimizer, lorafa
from torch import nn

from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.lorafa import FactorPair, LoraFA, project_gradients

RANK, ALPHA = 4, 12.0


def adapted(*, rslora: bool) -> PeftModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0", "2"], use_rslora=rslora)
    return get_peft_model(net, config)


def pairs_of(model: PeftModel, scale: float) -> dict[str, FactorPair]:
    named = dict(model.named_parameters())
    return {
        name: FactorPair(named[name.replace("lora_B", "lora_A")].detach(), p, scale)  # type: ignore[arg-type]
        for name, p in named.items()
        if "lora_B" in name
    }


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_peft(rslora: bool, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # PEFT makes this product in bfloat16 where the processor can; what it means is float32.
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)
    scale = ALPHA / math.sqrt(RANK) if rslora else ALPHA / RANK
    ours, theirs = adapted(rslora=rslora), adapted(rslora=rslora)
    peer = create_lorafa_optimizer(theirs, r=RANK, lora_alpha=int(ALPHA), lr=1.0, weight_decay=decay)
    peer.param_groups[0]["eps"] = 1e-8
    pairs = pairs_of(ours, scale)
    trained = {name: pair.b for name, pair in pairs.items()}
    optimizer = LoraFA(RuleOptimizer(trained, AdamW((0.9, 0.999)), weight_decay=decay), list(pairs.values()))
    generator = torch.Generator().manual_seed(1)
    for rate in (0.01, 0.02, 0.01, 0.005, 0.02):
        x = torch.randn(32, 24, generator=generator)
        target = torch.randn(32, 10, generator=generator)
        for model in (ours, theirs):
            # Large, so that where epsilon stands (PEFT's is not bias-corrected) makes no difference.
            (100 * (model(x) - target)).square().sum().backward()
        peer.param_groups[0]["lr"] = rate
        optimizer.step(rate)
        peer.step()
        peer.zero_grad()
    for name, p in theirs.named_parameters():
        # PEFT shrinks weights after the step and AdamW before it, which differ by rate² · decay.
        near = 1e-5 if decay == 0.0 else 1e-4
        assert torch.allclose(dict(ours.named_parameters())[name], p, rtol=1e-4, atol=near), name
    assert all(pair.b.abs().max() > 0.01 for pair in pairs.values())


def test_the_projection_is_the_nearest_to_the_full_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    a, scale = torch.randn(RANK, 24, generator=generator, dtype=torch.float64), 3.0
    full = torch.randn(16, 24, generator=generator, dtype=torch.float64)
    b = nn.Parameter(torch.zeros(16, RANK, dtype=torch.float32))
    b.grad = (scale * full @ a.T).float()
    project_gradients([FactorPair(a.float(), b, scale)])
    nearest = torch.linalg.lstsq((scale * a).T, full.T).solution.T
    assert torch.allclose(b.grad.double(), nearest, rtol=1e-5, atol=1e-6)


def test_a_direction_in_which_a_has_nothing_stays_finite() -> None:
    a = torch.randn(RANK, 24, generator=torch.Generator().manual_seed(3))
    a[1] = 0.0
    a[3] = a[2]
    b = nn.Parameter(torch.zeros(16, RANK))
    full = torch.randn(16, 24, generator=torch.Generator().manual_seed(4))
    b.grad = full @ a.T
    project_gradients([FactorPair(a, b, 1.0)])
    assert b.grad[:, 1].abs().max() < 1e-12
    assert float((b.grad @ a).norm()) <= 1.01 * float(full.norm())


def test_the_state_is_that_of_the_optimizer_behind_it() -> None:
    b, other = nn.Parameter(torch.ones(6, RANK)), nn.Parameter(torch.ones(6, RANK))
    a = torch.randn(RANK, 9, generator=torch.Generator().manual_seed(5))
    first = LoraFA(RuleOptimizer({"b": b}, AdamW((0.9, 0.999)), weight_decay=0.0), [FactorPair(a, b, 2.0)])
    second = LoraFA(RuleOptimizer({"b": other}, AdamW((0.9, 0.999)), weight_decay=0.0), [FactorPair(a, other, 2.0)])
    for number in range(4):
        if number == 2:
            second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
            other.data.copy_(b.data)
        for one, p in ((first, b), (second, other))[: 1 if number < 2 else 2]:
            p.grad = torch.randn(6, RANK, generator=torch.Generator().manual_seed(number))
            one.step(0.1)
    assert torch.equal(b, other)
    assert first.parameters == {"b": b}
