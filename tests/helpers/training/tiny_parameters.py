"""Named parameters with gradients that follow from a step's number, for the tests of optimisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from veneer.training.optimizers.base import Optimizer

SHAPES = {"a": (5, 3), "norm": (7,), "b": (3, 4), "scalar": ()}
LARGE = {"wide": (24, 300), "tall": (1027, 5), "model.embed_tokens.weight": (40, 128), "long": (5000,)} | SHAPES
"""With tensors that an 8-bit optimiser codes, one that it does not for its name, and blocks that are not full."""


def parameters(
    shapes: Mapping[str, Sequence[int]] = SHAPES, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(tuple(shape), generator=generator, dtype=dtype))
        for name, shape in shapes.items()
    }


def gradients(step: int, named: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Of several orders of magnitude within a tensor, as real ones are."""
    generator = torch.Generator().manual_seed(100 + step)
    found = {}
    for name, p in named.items():
        size = 10 ** (3 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 3)
        found[name] = size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return found


def set_gradients(step: int, named: Mapping[str, nn.Parameter]) -> None:
    for name, grad in gradients(step, named).items():
        named[name].grad = grad


def advance(optimizer: Optimizer, rates: Sequence[float], first: int = 0) -> None:
    """A step for each rate, the first with the gradients of that number."""
    for step, rate in enumerate(rates, start=first):
        set_gradients(step, optimizer.parameters)
        optimizer.step(rate)
