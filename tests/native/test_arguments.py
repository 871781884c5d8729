"""Kernels are given only tensors that they can read."""

from __future__ import annotations

import torch

from veneer.native.arguments import usable


def test_kernels_take_only_contiguous_cpu_tensors_of_one_dtype() -> None:
    x = torch.ones(4, 4)
    assert usable(x, x)
    assert not usable(x, x.T[:, :2])
    assert not usable(x, x.bfloat16())
    assert not usable(x.double())
    assert not usable(torch.ones(0, 4))
