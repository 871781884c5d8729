from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from veneer.model.precomputed import Precomputes, precomputed


class Doubling(nn.Module, Precomputes):
    """Computes twice its weight, in every call or once."""

    def __init__(self, value: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.once: Tensor | None = None
        self.computed = 0

    def double(self) -> Tensor:
        self.computed += 1
        return self.weight.detach() * 2

    def precompute(self) -> None:
        self.once = self.double()

    def forget_precomputed(self) -> None:
        self.once = None

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.double() if self.once is None else self.once)


def test_within_the_block_it_is_computed_once_and_afterwards_anew() -> None:
    modules = [Doubling(1.5), nn.Linear(2, 2), Doubling(-2.0)]
    x = torch.tensor(3.0)
    with precomputed(modules):
        for _ in range(5):
            assert [float(modules[0](x)), float(modules[2](x))] == [9.0, -12.0]
    assert [modules[0].computed, modules[2].computed] == [1, 1]
    with torch.no_grad():
        modules[0].weight.fill_(4.0)
    assert float(modules[0](x)) == 24.0


def test_what_was_computed_is_forgotten_after_an_error() -> None:
    module = Doubling(1.0)

    def fail() -> None:
        with precomputed([module]):
            assert module.once is not None
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert module.once is None


def test_modules_before_one_that_fails_forget_too() -> None:
    class Failing(Doubling):
        def precompute(self) -> None:
            raise RuntimeError("no room")

    first = Doubling(1.0)
    with pytest.raises(RuntimeError, match="no room"), precomputed([first, Failing(2.0)]):
        pass
    assert first.once is None
