from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from veneer.adapters.layers.rounded import RoundedFactors, stacked
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer


def pairs() -> list[tuple[Tensor, Tensor]]:
    sizes = ((32, 16), (16, 16), (48, 8))
    return [(nn.Parameter(torch.randn(4, inputs)), nn.Parameter(torch.randn(outputs, 4))) for outputs, inputs in sizes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_copies_are_the_factors_rounded(dtype: torch.dtype) -> None:
    factors = pairs()
    for (a, b), copy in zip(factors, RoundedFactors(factors, dtype).refresh(), strict=True):
        assert torch.equal(copy.a, a.detach().to(dtype))
        assert torch.equal(copy.b, b.detach().to(dtype))
        assert copy.stands_for(a, b, dtype)
        assert not copy.stands_for(a, b, torch.float32)


def test_a_step_of_the_optimiser_and_a_loaded_file_are_noticed() -> None:
    factors = pairs()
    room = RoundedFactors(factors, torch.bfloat16)
    copies = room.refresh()
    named = {f"{at}.{name}": x for at, pair in enumerate(factors) for name, x in zip("ab", pair, strict=True)}
    for factor in named.values():
        factor.grad = torch.randn_like(factor)
    RuleOptimizer(named, AdamW((0.9, 0.999)), weight_decay=0.0).step(0.1)
    assert not any(copy.stands_for(a, b, torch.bfloat16) for (a, b), copy in zip(factors, copies, strict=True))
    copies = room.refresh()
    with torch.no_grad():
        factors[0][1].copy_(torch.randn(32, 4))
    found = [copy.stands_for(a, b, torch.bfloat16) for (a, b), copy in zip(factors, copies, strict=True)]
    assert found == [False, True, True]


def test_the_factors_of_neighbours_are_one_matrix_without_a_copy() -> None:
    factors = pairs()
    first, second, third = RoundedFactors(factors, torch.bfloat16).refresh()
    whole = stacked([first.a, second.a])
    assert torch.equal(whole, torch.cat((first.a, second.a)))
    assert whole.data_ptr() == first.a.data_ptr()
    apart = stacked([second.a, first.a])
    assert torch.equal(apart, torch.cat((second.a, first.a)))
    assert apart.data_ptr() not in (first.a.data_ptr(), second.a.data_ptr())
    assert torch.equal(stacked([third.a]), third.a)
