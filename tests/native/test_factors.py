"""Factors reach the library only where their sizes are those of the layer that they update."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from veneer.native.factors import LayerFactors, Site, StepFactors


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_factors_of_another_size_are_refused() -> None:
    sites = [Site(path="a", columns=6, depth=4)]
    good = {"down": randn(2, 4), "up": randn(2, 6), "scale": 1.0}
    StepFactors(layers={"a": LayerFactors(**good)}).table(sites)
    wrong = {"down": randn(3, 4)}, {"up": randn(2, 7)}, {"up": randn(2, 6).bfloat16()}, {"bias": randn(5)}
    for change in (*wrong, {"down": randn(4, 2).t()}):
        with pytest.raises(ValueError, match=r"layer \[6, 4\]"):
            StepFactors(layers={"a": LayerFactors(**good | change)}).table(sites)
    with pytest.raises(ValueError, match="'b'"):
        StepFactors(layers={"b": LayerFactors(**good)}).table(sites)


def test_bytes_are_those_of_every_tensor() -> None:
    narrow = LayerFactors(down=torch.zeros(4, 64).bfloat16(), up=torch.zeros(4, 32).bfloat16(), scale=2.0)
    wide = LayerFactors(down=torch.zeros(8, 10), up=torch.zeros(8, 20), scale=1.0, bias=torch.zeros(20))
    assert StepFactors(layers={"a": narrow, "b": wide}).nbytes == 2 * 4 * 96 + 4 * (8 * 30 + 20)
    assert StepFactors(layers={}).nbytes == 0
