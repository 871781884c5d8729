"""8-bit AdamW: bitsandbytes' step and format, with the nearest codes, and close to AdamW where it must be."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from helpers.models.compiled_variants import COMPILED
from helpers.training.tiny_parameters import LARGE, advance, gradients, parameters
from veneer.native.build import library_path
from veneer.native.functions import Kernels
from veneer.native.library import kernels
from veneer.quant.dynamic import ELEMENTS_PER_SCALE, DynamicMap, decode, map_values
from veneer.training.optimizers import adamw8bit
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.adamw8bit import AdamW8bit
from veneer.training.optimizers.base import RuleOptimizer

BETAS = (0.9, 0.999)
CODED = {"wide": (24, 300), "tall": (1027, 5), "square": (64, 64)}
MAPS = {"1": DynamicMap.SIGNED, "2": DynamicMap.UNSIGNED}
KINDS = {"1": "exp_avg", "2": "exp_avg_sq"}


TABLE = 2 / 65536
"""Width of an entry of bitsandbytes' table: its code is the nearest to some number at most that far away."""


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_step_is_bitsandbytes_and_codes_differ_only_by_its_table(decay: float) -> None:
    theirs, ours = parameters(CODED), parameters(CODED)
    peer = bnb.optim.AdamW8bit(theirs.values(), lr=0.01, betas=BETAS, eps=1e-8, weight_decay=decay)
    optimizer = RuleOptimizer(ours, AdamW8bit(BETAS), weight_decay=decay)
    state = optimizer.tensors()
    differing = total = 0
    for step in range(8):
        grads = gradients(step, ours)
        before = {key: tensor.clone() for key, tensor in state.items()}
        for name, grad in grads.items():
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        peer.step()
        optimizer.step(0.01)
        for name, p in ours.items():
            # The states were equal before the step, so that only its own rounding and its own codes can differ.
            assert torch.allclose(p, theirs[name], rtol=1e-5, atol=1e-7), (name, step)
            p.data.copy_(theirs[name].data)
            for number, which in MAPS.items():
                key, beta = f"{name}/{KINDS[number]}", BETAS[int(number) - 1]
                old = decode(before[key].view(-1), before[f"{key}_absmax"], which)
                seen = grads[name].view(-1) ** int(number)
                wanted = beta * old + (1 - beta) * seen
                codes, scales = (peer.state[theirs[name]][f"{kind}{number}"] for kind in ("state", "absmax"))
                assert torch.allclose(state[f"{key}_absmax"], scales, rtol=1e-5)
                each = scales.repeat_interleave(ELEMENTS_PER_SCALE)[: len(wanted)]
                own_miss = (decode(state[key].view(-1), scales, which) - wanted).abs()
                their_miss = (decode(codes.view(-1), scales, which) - wanted).abs()
                assert bool((own_miss <= their_miss + 1e-6 * each).all())
                assert bool((their_miss <= own_miss + TABLE * each).all())
                differing, total = differing + int((state[key] != codes).sum()), total + codes.numel()
                state[key].copy_(codes)
                state[f"{key}_absmax"].copy_(scales)
    assert 0 < differing < total


@pytest.mark.parametrize("compiled", [False, True])
def test_codes_are_the_nearest(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the moments of a step from nothing, which are known: (1 - beta) times the gradient, and times its square."""
    if not compiled:
        monkeypatch.setattr(adamw8bit, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("no compiled kernels here")
    optimizer = RuleOptimizer(parameters(CODED), AdamW8bit(BETAS), weight_decay=0.0)
    advance(optimizer, [0.1])
    for name, grad in gradients(0, optimizer.parameters).items():
        for number, which in MAPS.items():
            wanted = ((1 - BETAS[int(number) - 1]) * grad.double() ** int(number)).view(-1)
            key = f"{name}/{KINDS[number]}"
            absmax = optimizer.tensors()[f"{key}_absmax"]
            each = absmax.double().repeat_interleave(ELEMENTS_PER_SCALE)[: len(wanted)]
            distances = ((wanted / each).unsqueeze(1) - map_values(which).double()).abs()
            chosen = optimizer.tensors()[key].view(-1, 1).long()
            assert bool((distances.gather(1, chosen).squeeze(1) <= distances.min(dim=1).values + 1e-6).all())


@pytest.mark.parametrize("variant", COMPILED or [pytest.param("none", marks=pytest.mark.skip(reason="none compiled"))])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_compiled_step_is_the_one_in_torch(variant: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    native = Kernels(library_path(variant))
    monkeypatch.setattr(adamw8bit, "kernels", lambda: native)
    compiled, plain = (RuleOptimizer(parameters(CODED), AdamW8bit(BETAS), weight_decay=decay) for _ in range(2))
    for step in range(6):
        for key, tensor in compiled.tensors().items():
            tensor.copy_(plain.tensors()[key])
        for name, p in compiled.parameters.items():
            p.data.copy_(plain.parameters[name].data)
        advance(compiled, [0.02], first=step)
        with monkeypatch.context() as patch:
            patch.setattr(adamw8bit, "kernels", lambda: None)
            advance(plain, [0.02], first=step)
        for name, p in compiled.parameters.items():
            assert torch.allclose(p, plain.parameters[name], rtol=1e-5, atol=1e-6), (name, step)
        for key, tensor in compiled.tensors().items():
            other = plain.tensors()[key]
            if tensor.dtype == torch.uint8:  # one step apart where rounding moved a number over a midpoint
                assert int((tensor.int() - other.int()).abs().max()) <= 1
                assert float((tensor != other).float().mean()) < 1e-3
            else:
                assert torch.allclose(tensor, other, rtol=1e-6), (key, step)


def test_small_tensors_and_embeddings_are_adamw_to_the_byte() -> None:
    exact = RuleOptimizer(parameters(LARGE), AdamW(BETAS), weight_decay=0.1)
    eight = RuleOptimizer(parameters(LARGE), AdamW8bit(BETAS), weight_decay=0.1)
    advance(exact, [0.1, 0.2, 0.1])
    advance(eight, [0.1, 0.2, 0.1])
    equal = {name for name in LARGE if torch.equal(exact.parameters[name], eight.parameters[name])}
    assert equal == set(LARGE) - {"wide", "tall", "long"}
    assert {key for key, tensor in eight.tensors().items() if tensor.dtype == torch.uint8} == {
        f"{name}/{kind}" for name in ("wide", "tall", "long") for kind in ("exp_avg", "exp_avg_sq")
    }


def test_it_solves_least_squares_as_adamw_does() -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(512, 96, generator=generator)
    answer = torch.randn(96, 64, generator=generator)
    target = inputs @ answer
    losses = {}
    for rule in (AdamW(BETAS), AdamW8bit(BETAS)):
        weight = nn.Parameter(torch.zeros(96, 64))
        optimizer = RuleOptimizer({"w": weight}, rule, weight_decay=0.0)
        for step in range(400):
            (inputs @ weight - target).square().mean().backward()
            optimizer.step(0.05 * (1 - step / 400))
        losses[type(rule)] = float((inputs @ weight - target).square().mean().detach())
    start = float(target.square().mean())
    assert losses[AdamW] < 1e-5 * start
    assert losses[AdamW8bit] < 1e-4 * start
