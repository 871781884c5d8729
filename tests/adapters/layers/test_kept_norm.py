"""A norm is measured once for as long as the factors that it follows from are what they were."""

from __future__ import annotations

import pytest
import torch

from veneer.adapters.layers.kept_norm import KeptNorm


def test_it_is_measured_again_when_a_factor_has_changed_and_not_before() -> None:
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    kept = KeptNorm()

    def norm() -> float:
        return float(kept.of((a, b), lambda: (a + b).detach().sum()))

    assert norm() == norm() == 6.0
    optimizer = torch.optim.SGD([b], lr=1.0)
    b.grad = -torch.ones(3)
    optimizer.step()
    assert norm() == 9.0
    with torch.no_grad():
        a.copy_(torch.zeros(3))
    assert norm() == 6.0
    a.data = torch.full((3,), 2.0)
    assert norm() == 12.0


def test_what_measures_it_may_fail_and_is_asked_again() -> None:
    a = torch.ones(3)
    kept = KeptNorm()

    def fails() -> torch.Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        kept.of((a,), fails)
    assert float(kept.of((a,), lambda: a.sum())) == 3.0
