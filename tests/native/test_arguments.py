"""Kernels are given only tensors that they can read."""

from __future__ import annotations

import torch

from veneer.native.arguments import kernels_accept


def test_kernels_take_only_contiguous_cpu_tensors_of_one_dtype() -> None:
    x = torch.ones(4, 4)
    assert kernels_accept(x, x)
    assert not kernels_accept(x, x.T[:, :2])
    assert not kernels_accept(x, x.bfloat16())
    assert not kernels_accept(x.double())
    assert not kernels_accept(torch.ones(0, 4))
